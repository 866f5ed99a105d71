"""Second stage of pretraining: text encoder and U-Net learn to denoise cached latents, v-prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .data import Drawings
from .models import token_ids


@dataclass(frozen=True)
class CaptionPlan:
    """Which drawing a name is shown with, and what the caption says of its set.

    Several sets draw the same name. Were their drawings equals, a plain name would mean a mixture of styles,
    and a small model blurs mixtures. So every name has one leading drawing, which its plain caption mostly
    means; the others mostly carry the name of their set: "cat face" and "cat face, noto".
    """

    leading_share: float = 0.85
    """How often a name that several sets draw is shown as its leading drawing."""
    plain_if_leading: float = 0.9
    """How often the caption of a leading drawing is the plain name."""
    plain_otherwise: float = 0.1
    """How often the caption of another drawing is the plain name."""
    dropout: float = 0.1
    """How often the caption is empty, for guidance."""
    rare_words: tuple[str, ...] = ()
    """A name with one of these words is drawn `rare_weight` times as often: "man running" and "woman running" share
    what there is to learn."""
    rare_weight: float = 0.35
    frequent_names: tuple[str, ...] = ()
    """These captions are drawn `frequent_weight` times as often."""
    frequent_weight: float = 3.0

    def __post_init__(self) -> None:
        for name in ("leading_share", "plain_if_leading", "plain_otherwise", "dropout"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a share: got {value}. Set it between 0 and 1.")
        for name in ("rare_weight", "frequent_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0: got {getattr(self, name)}. Set a positive weight.")

    def weight(self, caption: str) -> float:
        """How often a name is drawn, against others."""
        if caption in self.frequent_names:
            return self.frequent_weight
        return self.rare_weight if set(caption.lower().split()) & set(self.rare_words) else 1.0


class CaptionedLatents:
    """Cached latents with their captions' tokens; draws batches by name, each as often as the plan says, however many
    sets draw it.
    """

    def __init__(
        self,
        drawings: Drawings,
        latents: tuple[Tensor, Tensor],
        tokenizer: Any,
        plan: CaptionPlan,
        set_order: Sequence[str],
    ) -> None:
        unknown = set(drawings.sets) - set(set_order)
        if unknown:
            raise ValueError(f"No rank is given for the set(s) {sorted(unknown)}. Name them in --set_order.")
        self.mean, self.deviation = latents
        self.plan = plan
        self.plain = token_ids(tokenizer, drawings.captions)
        styled = [f"{caption}, {group}" for caption, group in zip(drawings.captions, drawings.sets, strict=True)]
        self.styled = token_ids(tokenizer, styled)
        self.empty = token_ids(tokenizer, [""])[0]
        rank = {group: place for place, group in enumerate(set_order)}
        by_name: dict[str, list[int]] = {}
        for row in sorted(range(len(drawings)), key=lambda row: rank[drawings.sets[row]]):
            by_name.setdefault(drawings.names[row], []).append(row)
        self.rows = [by_name[name] for name in sorted(by_name)]
        self.weights = torch.tensor([plan.weight(drawings.captions[rows[0]]) for rows in self.rows])

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(latents, token ids) of random names.  -> (size, c, h, w), (size, tokens)"""
        plan = self.plan
        names = torch.multinomial(self.weights, size, replacement=True, generator=generator).tolist()
        chance = torch.rand(size, 4, generator=generator).tolist()
        rows, ids = [], []
        for name, (which, other, plain, drop) in zip(names, chance, strict=True):
            choices = self.rows[name]
            leads = len(choices) == 1 or which < plan.leading_share
            row = choices[0] if leads else choices[1 + int(other * (len(choices) - 1))]
            is_plain = plain < (plan.plain_if_leading if leads else plan.plain_otherwise)
            rows.append(row)
            ids.append(self.empty if drop < plan.dropout else (self.plain if is_plain else self.styled)[row])
        noise = torch.randn(size, *self.mean.shape[1:], generator=generator)
        return self.mean[rows] + self.deviation[rows] * noise, torch.stack(ids)


class VelocityLoss:
    """Mean squared error of the velocity v = sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho, 2022).

    a is the scheduler's cumulative alpha. Timesteps are spread over the batch, which quiets the loss, and lean to the
    noisy end (median 0.65 of the way), where it is settled what is drawn.
    """

    LEAN = 1.5
    """1 draws timesteps evenly; the share of the way t has the density (1 - t)^(1 / LEAN - 1) / LEAN."""

    def __init__(self, data: CaptionedLatents, alphas_cumprod: Tensor, batch_size: int, bf16: bool) -> None:
        self.data, self.alphas_cumprod = data, alphas_cumprod
        self.batch_size, self.bf16 = batch_size, bf16

    def __call__(self, modules: nn.ModuleDict, generator: torch.Generator, progress: float) -> Tensor:
        """One batch's loss.  -> ()"""
        n = self.batch_size
        latents, ids = self.data.batch(n, generator)
        even = (torch.arange(n) + torch.rand(n, generator=generator)) / n
        last = len(self.alphas_cumprod) - 1
        t = ((1 - (1 - even) ** self.LEAN) * (last + 1)).long().clamp(max=last)  # `even` can round to 1
        a = self.alphas_cumprod[t].view(n, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * latents
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            text = modules["text_encoder"](ids).last_hidden_state  # (n, tokens, width)
            predicted = modules["unet"](noisy, t, text).sample
        error: Tensor = predicted.float() - velocity
        return error.square().mean()
