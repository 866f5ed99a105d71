"""CLIP's words, which no checkpoint holds: the published token ids, and where they come from."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
import transformers

from reslora_sd.diffusion import tokenizers
from reslora_sd.diffusion.tokenizers import END, EXCLAMATION, clip_tokenizer, read_merges

CAT = [49406, 320, 1125, 539, 320, 2368, 49407]  # "a photo of a cat", in every text on CLIP
installed = tokenizers._merges_file()
needs_package = pytest.mark.skipif(installed is None, reason="open_clip_torch isn't installed")


@pytest.fixture
def nothing_cached(monkeypatch, tmp_path):
    monkeypatch.setattr(tokenizers, "CACHED", str(tmp_path / "nowhere"))


@needs_package
@pytest.mark.parametrize("pad", [END, EXCLAMATION])
def test_the_ids_are_clips_own_and_a_saved_folder_gives_the_same(nothing_cached, tmp_path, pad):
    words = clip_tokenizer(None, pad)
    assert len(words) == 49408 and words.model_max_length == 77
    assert words("a photo of a cat").input_ids == CAT
    filled = words("A photo  of a CAT", padding="max_length", max_length=77).input_ids
    assert filled == CAT + [{END: 49407, EXCLAMATION: 0}[pad]] * 70
    assert installed is not None
    vocabulary, merges = read_merges(installed)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad, "model_max_length": 77}))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("wow! it's 42 cats, naïve & émigré", "日本", ""):
        assert words(text).input_ids == theirs(text).input_ids == clip_tokenizer(str(tmp_path), pad)(text).input_ids


@pytest.mark.parametrize("pad", [END, EXCLAMATION])
def test_an_empty_cache_of_the_hub_is_no_tokenizer(monkeypatch, tmp_path, pad):
    monkeypatch.setattr(tokenizers, "_PACKAGES", ("no_such_package_here",))
    with pytest.raises(ValueError, match="pip install --no-deps open_clip_torch"):
        clip_tokenizer(None, pad, cache_dir=str(tmp_path))


def test_without_any_tokenizer_the_error_says_what_to_install(nothing_cached, monkeypatch):
    monkeypatch.setattr(tokenizers, "_PACKAGES", ("no_such_package_here",))
    with pytest.raises(ValueError, match=r"pip install --no-deps open_clip_torch.*--tokenizer_name"):
        clip_tokenizer(None, END)


def test_a_folder_without_one_and_a_damaged_file_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"--tokenizer_name .*there is no tokenizer"):
        clip_tokenizer(str(tmp_path), END)
    short = gzip.compress(b"head\na b\n")
    for name, data in (("cut", short[:-5]), ("short", short), ("no", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="Install its package again"):
            read_merges(tmp_path / name)


def test_a_package_is_found_without_importing_it(nothing_cached, monkeypatch, tmp_path):
    package = tmp_path / "some_clip_words"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / tokenizers._MERGES).write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tokenizers, "_PACKAGES", ("some_clip_words",))
    assert tokenizers._merges_file() == package / tokenizers._MERGES and "some_clip_words" not in sys.modules
