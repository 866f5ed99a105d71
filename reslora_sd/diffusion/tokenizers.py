"""CLIP's tokenizer, which no single-file checkpoint holds: from a folder, the Hub's cache or another package."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.command import first_words

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CACHED = "openai/clip-vit-large-patch14"
"""Its name on the Hub. SD 1.x, 2.x and SDXL all have these words and differ in what fills a short prompt."""
END, EXCLAMATION = "<|endoftext|>", "!"
"""What fills: of OpenAI's CLIP, and of open_clip (id 0)."""
_TOKENS = 77
_PACKAGES = ("open_clip", "clip")
_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_WORDS = 49408
_COUNT = 49152 - 256 - 2
"""Merges that CLIP takes of the file (openai/CLIP, clip/simple_tokenizer.py): bytes and two marks make up the rest."""


def clip_tokenizer(named: str | None, pad: str, cache_dir: str | None = None) -> CLIPTokenizer:
    """The tokenizer with `pad` as what fills: `named`, or that of the Hub's cache, or of a package.

    One that is `named` and has other words than CLIP's is taken as it is.

    Args:
        named: a folder or Hub name, by `--tokenizer_name`.

    Raises:
        ValueError: it can't be read, or is nowhere.
    """
    from transformers import CLIPTokenizer

    more = {"pad_token": pad, "cache_dir": cache_dir}
    if named is not None:
        found = read_tokenizer(named, cache_dir=cache_dir)
        other = len(found) == _WORDS and found.pad_token != pad  # CLIP's, of another family
        return read_tokenizer(named, **more) if other else found
    try:
        cached = CLIPTokenizer.from_pretrained(CACHED, local_files_only=True, **more)
        if len(cached) == _WORDS:  # transformers makes an empty one of what isn't in the cache, or only in part
            return cached
    except (OSError, ValueError):
        pass
    file = _merges_file()
    if file is None:
        raise ValueError(
            "A single-file checkpoint holds no tokenizer, and there is none here. Run: pip install --no-deps "
            "open_clip_torch, whose file of CLIP's words is enough, or give --tokenizer_name with a folder that holds "
            f"one, or {CACHED} to load it from the Hub."
        )
    vocabulary, merges = read_merges(file)
    return CLIPTokenizer(vocabulary, merges, pad_token=pad, model_max_length=_TOKENS)


def read_tokenizer(named: str, **more: Any) -> CLIPTokenizer:
    """A tokenizer of a folder or of the Hub.

    Raises:
        ValueError: there is none.
    """
    from transformers import CLIPTokenizer

    if Path(named, "tokenizer").is_dir():
        more.setdefault("subfolder", "tokenizer")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(named, **more)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = first_words(error)
        raise ValueError(f"--tokenizer_name {named}: there is no tokenizer ({first}).") from error
    if len(tokenizer) < 4:  # transformers makes an empty one of a folder without its files
        raise ValueError(f"--tokenizer_name {named}: there is no tokenizer.json in it, nor vocab.json and merges.txt.")
    return tokenizer


def read_merges(file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's words and merges from its own file of byte pairs (rule: openai/CLIP, clip/simple_tokenizer.py).

    Raises:
        ValueError: it is another file, or damaged.
    """
    try:
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : _COUNT + 1]
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file} can't be read ({error}). Install its package again.") from error
    pairs = [tuple(line.split()) for line in lines]
    if len(pairs) != _COUNT or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{file} doesn't hold CLIP's {_COUNT} byte pairs. Install its package again.")
    merges = [(pair[0], pair[1]) for pair in pairs]
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", END]
    return {word: number for number, word in enumerate(words)}, merges


def _byte_letters() -> list[str]:
    """A printable letter for every byte, in CLIP's order: those that print first, then the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sum(byte not in printable for byte in range(256))
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]


def _merges_file() -> Path | None:
    """Where an installed package has the file; nothing of it is imported."""
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            file = Path(folder, _MERGES)
            if file.is_file():
                return file
    return None
