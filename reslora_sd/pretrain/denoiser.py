"""Second stage of pretraining: text encoder and U-Net learn to denoise cached latents, v-prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .data import Drawings
from .loop import generator_on
from .models import token_ids


@dataclass(frozen=True)
class CaptionPlan:
    """Which drawing a name is shown with, and what the caption says of it.

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
    recoloured_share: float = 0.3
    """How often a name is shown in other colours, which the caption names, where there are such drawings."""
    phrased: float = 0.1
    """How often a plain name stands in a phrase, such as "a drawing of a cat face"."""
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
        for name in ("leading_share", "plain_if_leading", "plain_otherwise", "recoloured_share", "phrased", "dropout"):
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


PHRASES = ("a {}", "the {}", "a drawing of a {}", "a picture of a {}", "one {}, please")
"""What a name may stand in."""

Latents = tuple[Tensor, Tensor]
"""Mean and deviation."""


class CaptionedLatents:
    """Cached latents with their captions' tokens; draws batches by name, each as often as the plan says, however many
    sets draw it.

    Args:
        latents: of the drawings, in their order.  2 x (n, c, h, w)
        recolourings: captions and latents of each leading drawing in other colours.
            (names, k) strings, 2 x (names * k, c, h, w)
        device: where batches are drawn and stay.

    Raises:
        ValueError: a set has no rank in `set_order`.
    """

    def __init__(
        self,
        drawings: Drawings,
        latents: Latents,
        tokenizer: Any,
        plan: CaptionPlan,
        set_order: Sequence[str],
        recolourings: tuple[Sequence[Sequence[str]], Latents] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        by_name = rows_by_name(drawings, set_order)
        captions = [drawings.captions[rows[0]] for rows in by_name]
        styled = [f"{caption}, {group}" for caption, group in zip(drawings.captions, drawings.sets, strict=True)]
        phrased = [phrase.format(caption) for caption in drawings.captions for phrase in PHRASES]
        self.plan, self.device = plan, torch.device(device)
        self.mean, self.deviation = self._here(*latents)
        self.plain, self.styled, self.phrased, self.empty = self._here(
            token_ids(tokenizer, drawings.captions),
            token_ids(tokenizer, styled),
            token_ids(tokenizer, phrased).view(len(drawings), len(PHRASES), -1),
            token_ids(tokenizer, [""])[0],
        )
        most = max(len(rows) for rows in by_name)
        self.rows, self.counts, self.weights = self._here(
            torch.tensor([[*rows, *rows[:1] * (most - len(rows))] for rows in by_name]),
            torch.tensor([len(rows) for rows in by_name]),
            torch.tensor([plan.weight(caption) for caption in captions]),
        )
        self.recolourings: tuple[Tensor, Tensor, Tensor] | None = None
        if recolourings is not None:
            names, (mean, deviation) = recolourings
            ids = token_ids(tokenizer, [caption for of_name in names for caption in of_name])
            mean, deviation, ids = self._here(mean, deviation, ids)
            self.recolourings = (mean, deviation, ids)
            self.colours = len(names[0])

    def _here(self, *tensors: Tensor) -> list[Tensor]:
        return [tensor.to(self.device) for tensor in tensors]

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(latents, token ids) of random names.  -> (size, c, h, w), (size, tokens)"""
        plan = self.plan
        generator = generator_on(self.device, generator)
        names = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        which, other, plain, drop, kind, colours = torch.rand(6, size, generator=generator, device=self.device).unbind()
        others = self.counts[names] - 1
        leads = (others == 0) | (which < plan.leading_share)
        row = self.rows[names, torch.where(leads, 0, 1 + _index(other, others))]
        mean, deviation = self.mean[row], self.deviation[row]
        is_plain = plain < torch.where(leads, plan.plain_if_leading, plan.plain_otherwise)
        share_of_phrases = plan.phrased * plan.plain_if_leading
        in_phrase = leads & (plain < share_of_phrases)
        phrase = _index(plain / max(share_of_phrases, 1e-9), len(PHRASES))
        ids = torch.where(is_plain[:, None], self.plain[row], self.styled[row])
        ids = torch.where(in_phrase[:, None], self.phrased[row, phrase], ids)
        if self.recolourings is not None:
            its_mean, its_deviation, its_ids = self.recolourings
            picked = names * self.colours + _index(colours, self.colours)
            recoloured = kind < plan.recoloured_share
            wide = recoloured.view(-1, 1, 1, 1)
            mean = torch.where(wide, its_mean[picked], mean)
            deviation = torch.where(wide, its_deviation[picked], deviation)
            ids = torch.where(recoloured[:, None], its_ids[picked], ids)
        ids = torch.where((drop < plan.dropout)[:, None], self.empty, ids)
        noise = torch.randn(mean.shape, generator=generator, device=self.device)
        return mean + deviation * noise, ids


def rows_by_name(drawings: Drawings, set_order: Sequence[str]) -> list[list[int]]:
    """The drawings of each name, by the rank of their sets: the first leads.

    Raises:
        ValueError: a set has no rank.
    """
    unknown = set(drawings.sets) - set(set_order)
    if unknown:
        raise ValueError(f"No rank is given for the set(s) {sorted(unknown)}. Name them in --set_order.")
    rank = {group: place for place, group in enumerate(set_order)}
    by_name: dict[str, list[int]] = {}
    for row in sorted(range(len(drawings)), key=lambda row: rank[drawings.sets[row]]):
        by_name.setdefault(drawings.names[row], []).append(row)
    return [by_name[name] for name in sorted(by_name)]


def _index(share: Tensor, count: Tensor | int) -> Tensor:
    """0 ... count - 1 from a number in 0 ... 1; 0 where `count` is 0."""
    index = (share * count).long()
    return torch.minimum(index, torch.as_tensor(count, device=share.device) - 1).clamp(min=0)


class VelocityLoss:
    """Mean squared error of the velocity v = sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho, 2022).

    a is the scheduler's cumulative alpha. Timesteps are spread over the batch, which quiets the loss, and lean to the
    noisy end (median 0.65 of the way), where it is settled what is drawn.
    """

    LEAN = 1.5
    """1 draws timesteps evenly; the share of the way t has the density (1 - t)^(1 / LEAN - 1) / LEAN."""

    def __init__(self, data: CaptionedLatents, alphas_cumprod: Tensor, batch_size: int, bf16: bool) -> None:
        self.data, self.alphas_cumprod = data, alphas_cumprod.to(data.device)
        self.batch_size, self.bf16 = batch_size, bf16

    def __call__(self, modules: nn.ModuleDict, generator: torch.Generator, progress: float) -> Tensor:
        """One batch's loss.  -> ()"""
        n = self.batch_size
        latents, ids = self.data.batch(n, generator)
        device = latents.device
        generator = generator_on(device, generator)
        even = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
        last = len(self.alphas_cumprod) - 1
        t = ((1 - (1 - even) ** self.LEAN) * (last + 1)).long().clamp(max=last)  # `even` can round to 1
        a = self.alphas_cumprod[t].view(n, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * latents
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            text = modules["text_encoder"](ids).last_hidden_state  # (n, tokens, width)
            predicted = modules["unet"](noisy, t, text).sample
        error: Tensor = predicted.float() - velocity
        return error.square().mean()
