"""Small text models that tests are made on, with random weights, a tokenizer of bytes, and rows of a task."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers

from reslora_sd.paper.made import byte_tokenizer
from reslora_sd.text.glue import glue_task

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "vocab_size": 64,
}


def small_llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM of five layers whose key/value heads are half as many, so that v is smaller than q."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        **_SIZES, num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


def small_bert(labels: int = 2, seed: int = 0) -> Any:
    """A sequence classifier of five layers."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(**_SIZES, max_position_embeddings=64, num_labels=labels)
    return transformers.BertForSequenceClassification(config)


def tokens_for(model: Any, batch: int = 2, length: int = 7, seed: int = 1) -> torch.Tensor:
    """Random token ids without padding.  -> (batch, length)"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, model.config.vocab_size, (batch, length), generator=generator)


def save_small_llama(folder: Path) -> Path:
    """A folder with a causal LM of two layers and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    sizes = {**_SIZES, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    config = transformers.LlamaConfig(
        **sizes, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_svamp(path: Path, rows: int, first: int = 0) -> Path:
    """A file in SVAMP's form."""
    lines = [
        {
            "Body": f"Tom has {i + 9} pens and gives {i} away",
            "Question": "How many are left?",
            "Equation": f"( {i + 9}.0 - {i}.0 )",
            "Answer": "9",
        }
        for i in range(first, first + rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def save_small_bert(folder: Path, encoder_only: bool = False) -> Path:
    """A folder with a classifier of two layers and its tokenizer; or with the encoder alone, as published ones are."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    sizes = {**_SIZES, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, max_position_embeddings=512))
    (model.base_model if encoder_only else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_small_roberta(folder: Path) -> Path:
    """A folder with an encoder of two layers, whose classifiers have a head of two layers, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    sizes = {**_SIZES, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    config = transformers.RobertaConfig(**sizes, max_position_embeddings=514, pad_token_id=0)
    transformers.RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_glue(path: Path, task: str, rows: int, first: int = 0) -> Path:
    """A file in the form of one of GLUE's tasks, whose labels can be learned from its first text."""
    words = ("aaaa", "zzzz", "----")
    columns = glue_task(task).texts
    classes = glue_task(task).labels
    lines = []
    for i in range(first, first + rows):
        label = i % max(2, classes)
        texts = {column: f"{words[label] * 2} {i}" if k == 0 else "so" for k, column in enumerate(columns)}
        lines.append({**texts, "label": float(label) if classes == 1 else label, "idx": i})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def full_disk(*values: object) -> NoReturn:
    """In the place of what writes a file."""
    raise OSError(errno.ENOSPC, "No space left on device")
