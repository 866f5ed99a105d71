"""Small text models that tests are made on, with random weights: a Llama with grouped heads, a BERT, a GPT-2."""

from __future__ import annotations

from typing import Any

import torch
import transformers

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
