"""Made-up models and rows, for the preset `smoke`: they show that everything runs, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..runs.atomic import replacing

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_all(folder: Path) -> None:
    """Writes what isn't there yet: `llama` and `bert`, and rows of some tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # another `run` may be making them
        for task, row in _ROWS.items():
            for name, first, count in ((task, 0, 20), (f"{task}-test", 100, 4)):
                if not (folder / f"{name}.jsonl").is_file():
                    with replacing(folder / f"{name}.jsonl") as file:
                        lines = (json.dumps(row(i)) + "\n" for i in range(first, first + count))
                        file.write_text("".join(lines), encoding="utf-8")
        for name, make in (("llama", _llama), ("bert", _bert)):
            if not (folder / name / "made").is_file():
                make(folder / name)
                (folder / name / "made").touch()  # last: a kill in between leaves a folder that is made again


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes, with padding, start and end of text."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _llama(folder: Path) -> None:
    import torch
    import transformers

    tokenizer = byte_tokenizer()
    config = transformers.LlamaConfig(
        **_SIZES,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _bert(folder: Path) -> None:
    import torch
    import transformers

    tokenizer = byte_tokenizer()
    config = transformers.BertConfig(**_SIZES, vocab_size=len(tokenizer), max_position_embeddings=512)
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _svamp(i: int) -> dict[str, Any]:
    return {
        "Body": f"Tom has {i + 9} pens and gives {i} away",
        "Question": "How many are left?",
        "Equation": f"( {i + 9}.0 - {i}.0 )",
        "Answer": "9",
    }


def _pair(label: int, i: int) -> dict[str, Any]:
    return {"sentence1": f"Pens are {'good' if label else 'bad'} {i}", "sentence2": "so", "label": label, "idx": i}


_ROWS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "gsm8k": lambda i: {"question": f"What is {i} + 1?", "answer": f"One more.\n#### {i + 1}"},
    "svamp": _svamp,
    "mrpc": lambda i: _pair(i % 2, i),
}
