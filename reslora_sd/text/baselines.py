"""PEFT's methods that the paper compares with (appendix A): AdaLoRA, LoHa and LoKr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..files.storage import load_tensors, save_tensors
from .trainer import RunTrainer

ADALORA_EXTRA = 1.5
"""AdaLoRA starts with this many times the rank, and ends with the rank on average (ratio of its paper, 12 to 8)."""

ADALORA_FILE = "adalora_state.safetensors"
"""AdaLoRA's whole state, in a checkpoint."""
_IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""PEFT's RankAllocator: sensitivity, its smoothed mean, and its smoothed uncertainty."""


def add_peft_baseline(
    model: Any,
    method: str,
    targets: Sequence[str],
    *,
    r: int,
    lora_alpha: float,
    lora_dropout: float,
    total_steps: int,
    modules_to_save: Sequence[str],
) -> tuple[Any, list[TrainerCallback]]:
    """Wraps a model with PEFT's adapter, trainable parameters in float32.

    Args:
        method: `adalora`, `loha` or `lokr`.
        targets: ends of module paths, as for `ResLoRAConfig.target_modules`.
        lora_dropout: on the input for AdaLoRA; LoHa and LoKr drop rows of their matrices (`rank_dropout`).
        total_steps: of the training. AdaLoRA keeps its ranks for the first tenth, and for the last third.
        modules_to_save: modules that train whole, such as a new classifier.

    Returns:
        PEFT's model, and callbacks without which the method doesn't work.
    """
    import peft

    common: dict[str, Any] = {"target_modules": list(targets), "modules_to_save": list(modules_to_save) or None}
    if method == "adalora":
        config = peft.AdaLoraConfig(
            **common,
            init_r=round(ADALORA_EXTRA * r),
            target_r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            tinit=total_steps // 10,
            tfinal=total_steps // 3,
            deltaT=max(1, total_steps // 100),
            total_step=total_steps,
        )
    elif method == "loha":
        config = peft.LoHaConfig(**common, r=r, alpha=lora_alpha, rank_dropout=lora_dropout)
    else:
        assert method == "lokr"
        config = peft.LoKrConfig(**common, r=r, alpha=lora_alpha, rank_dropout=lora_dropout)
    wrapped = peft.get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped, [AllocateRanks(wrapped)] if method == "adalora" else []


def fused(wrapped: Any) -> Any:
    """The model with PEFT's adapter in its weights, and with the modules that trained whole in their places.

    PEFT's own `merge_and_unload` of LoHa and LoKr fails at a head of several layers (RoBERTa's).

    Returns:
        the model itself, without anything of PEFT.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    model = wrapped.get_base_model()
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
        elif isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config  # else save_pretrained writes the adapter only
    return model


class AllocateRanks(TrainerCallback):  # type: ignore[misc]
    """Has AdaLoRA take ranks away after each step; without it, AdaLoRA trains as LoRA (peft#3373).

    Raises:
        RuntimeError: at the end of the training, if no rank has changed.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the optimizer's step and before gradients are cleared, as PEFT asks."""
        self.model.base_model.update_and_allocate(state.global_step + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = ranks(self.model)
        if found and min(found.values()) == max(found.values()) == self.model.peft_config["default"].init_r:
            raise RuntimeError(
                f"AdaLoRA changed no rank in {state.global_step} steps: all {len(found)} are {min(found.values())}. "
                "Train for 10 steps or more."
            )


def ranks(model: Any) -> dict[str, int]:
    """The rank of each of AdaLoRA's modules: how many singular values are not zero."""
    return {
        name.removesuffix(".lora_E.default"): int(torch.count_nonzero(parameter))
        for name, parameter in model.named_parameters()
        if name.endswith(".lora_E.default")
    }


class AdaLoRATrainer(RunTrainer):
    """A Trainer whose checkpoints hold all of AdaLoRA, so that a run can be resumed.

    PEFT's file leaves out ranks that are taken away: it fits no fresh adapter, and a rank may come back later. The
    importances by which ranks are chosen aren't in it either.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_tensors(Path(output_dir or self.args.output_dir) / ADALORA_FILE, _adalora_state(self.model), {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        _load_adalora_state(self.model, Path(resume_from_checkpoint) / ADALORA_FILE)

    def _take_best(self, checkpoint: Path) -> None:
        _load_adalora_state(self.model, checkpoint / ADALORA_FILE)


def _adalora_state(model: Any) -> dict[str, Tensor]:
    """What trains, the importances, and which ranks are kept, in one flat table."""
    state = {f"weight/{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for kind in _IMPORTANCES:
        state |= {f"{kind}/{name}": one for name, one in getattr(model.base_model.rankallocator, kind).items()}
    pattern = model.peft_config["default"].rank_pattern or {}
    return state | {f"kept/{name}": torch.tensor(kept) for name, kept in pattern.items()}


def _load_adalora_state(model: Any, file: Path) -> None:
    """Takes up what `_adalora_state` gave.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, or of another model or other settings.
    """
    state, _ = load_tensors(file)
    table: dict[str, dict[str, Tensor]] = {kind: {} for kind in ("weight", "kept", *_IMPORTANCES)}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        table.setdefault(kind, {})[name] = value
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    known = {"weight", "kept", *_IMPORTANCES}
    if table.keys() != known or {name: p.shape for name, p in weights.items()} != {
        name: one.shape for name, one in table["weight"].items()
    }:
        raise ValueError(
            f"{file} is of another model, rank or targets: it doesn't fit what trains here. Resume "
            "with the settings that it was trained with."
        )
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(table["weight"][name])
    for kind in _IMPORTANCES:
        setattr(model.base_model.rankallocator, kind, table[kind])
    if table["kept"]:
        model.peft_config["default"].rank_pattern = {name: kept.tolist() for name, kept in table["kept"].items()}
