"""Sites of a text model: which linears run, in which order, and which of them read one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ResLoRAConfig
from ..modes import evaluating
from .calls import recorder
from .links import Site, matches, unmatched

_TOKENS = 8
_LAYER_NUMBER = re.compile(r".*\.\d+\.")


def trace_text(model: nn.Module, config: ResLoRAConfig) -> list[Site]:
    """Sites of a transformers model in execution order, from one forward pass over eight tokens.

    A chain is one projection over all layers: what follows the layer's number in the path, such as `self_attn.q_proj`.
    A model on the `meta` device is traced without weights.

    Raises:
        ValueError: a target matches nothing, something that is no plain linear, a linear whose weight is another
            module's too, or one that doesn't run once; or the model is an encoder-decoder.
    """
    check_one_stack(getattr(model, "config", None))
    targets = {name: module for name, module in model.named_modules() if matches(name, config.target_modules)}
    _check_targets(model, config, targets)
    check_own_weights(model, targets)
    calls: list[tuple[str, Tensor]] = []  # tensors are kept, so that an id is never given out again
    handles = [module.register_forward_pre_hook(recorder(name, calls)) for name, module in targets.items()]
    try:
        with evaluating(model), torch.no_grad():
            tokens = torch.zeros(1, _TOKENS, dtype=torch.long, device=next(model.parameters()).device)
            model(input_ids=tokens)
    finally:
        for handle in handles:
            handle.remove()
    idle = sorted(targets.keys() - {name for name, _ in calls})
    if idle:
        raise ValueError(
            f"{idle[0]} is a target that a forward pass doesn't run ({len(idle)} such modules), so that it would never "
            "learn. Name targets that run, for example by a longer end of their path."
        )
    return list(_sites(calls, targets))


def check_one_stack(config: Any, name: str = "The model") -> None:
    """Refuses encoder-decoders such as T5: they need a second input, and their two stacks are no single chain.

    Raises:
        ValueError: it is one.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{name} is of type {config.model_type!r}, an encoder-decoder. ResLoRA takes decoders such as "
            "Llama and encoders such as BERT, whose layers are one chain. Choose another model."
        )


def check_own_weights(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Refuses linears whose weight is another module's too, as `lm_head` of a model that ties it to the embedding.

    Beside the weight, a LoRA acts on the linear alone. Fused, by us or by PEFT's `merge_and_unload`, it would move the
    embedding as well: another model than the one that was trained.

    Args:
        layers: of the model, by the names that errors call them.

    Raises:
        ValueError: there is one; the message says how to untie it.
    """
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((path, module))
    for name, layer in layers.items():
        shared = [path for path, module in holders.get(id(getattr(layer, "weight", None)), []) if module is not layer]
        if shared:
            raise ValueError(
                f"{name} shares its weight with {shared[0]}, which would change, too, when a LoRA of {name} is fused. "
                "Leave it out of the targets, or untie a copy of the base model, and train on that: "
                "model.config.tie_word_embeddings = False; model.lm_head.weight = "
                "torch.nn.Parameter(model.lm_head.weight.clone()); model.save_pretrained(FOLDER)."
            )


def _sites(calls: Sequence[tuple[str, Tensor]], targets: dict[str, nn.Module]) -> Iterator[Site]:
    names: dict[int, str] = {}
    for name, x in calls:
        linear = targets[name]
        assert isinstance(linear, nn.Linear)
        yield Site(
            name=name,
            chain=_LAYER_NUMBER.sub("", name),
            in_features=linear.in_features,
            out_features=linear.out_features,
            tokens=x.shape[-2],
            input_name=names.setdefault(id(x), f"{name}:input"),
        )


def _check_targets(model: nn.Module, config: ResLoRAConfig, targets: dict[str, nn.Module]) -> None:
    for name, module in targets.items():
        if type(module) is not nn.Linear:
            raise ValueError(
                f"{name} is a {type(module).__name__}, and ResLoRA takes plain nn.Linear layers: not GPT-2's Conv1D, "
                "no quantized layers, no layers that carry another adapter. Name other target_modules, or load the "
                "model without these."
            )
    rule = unmatched(targets, config.target_modules)
    if rule is not None:
        there = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"target_modules has {rule!r}, which matches no module of this {type(model).__name__}. Its linears are "
            f"named {', '.join(there) or 'nothing'}."
        )
