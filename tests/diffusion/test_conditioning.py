"""Long captions in chunks."""

import logging
from dataclasses import replace

import pytest
import torch

from reslora_sd.diffusion.conditioning import chunks_of, encode_captions, warn_of_long
from reslora_sd.diffusion.models import load_parts

FIRST, REST = " ".join(["red"] * 22), "a blue ball"
LONG = f"{FIRST} {REST}"


@pytest.fixture(scope="module")
def parts(tiny_pipeline_folder):
    return load_parts(str(tiny_pipeline_folder))


def test_each_chunk_is_a_text_of_its_own(parts):
    once = encode_captions(parts, [FIRST, REST, ""], quiet=True)
    twice = encode_captions(replace(parts, chunks=2), [LONG, REST], quiet=True)
    for caption, chunks in ((LONG, (FIRST, REST)), (REST, (REST, ""))):
        wanted = torch.cat([once[chunk].tokens for chunk in chunks])
        torch.testing.assert_close(twice[caption].tokens, wanted, rtol=1e-5, atol=1e-5)


def test_one_chunk_is_what_it_always_was(parts):
    ids = parts.tokenizer([LONG], padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(encode_captions(parts, [LONG], quiet=True)[LONG].tokens, parts.text_encoder(ids)[0][0])


def test_only_what_is_cut_is_warned_of(parts, caplog):
    caplog.set_level(logging.WARNING)
    warn_of_long(replace(parts, chunks=2), [LONG, FIRST])
    assert not caplog.records
    warn_of_long(parts, [LONG, FIRST])
    assert "1 captions are longer than the text encoder's 24 tokens" in caplog.text


@pytest.mark.parametrize("tokens", [1, 23, 75, 22 * 9])
def test_lengths_that_are_no_chunks_are_refused(parts, tokens):
    assert chunks_of(parts, None) == 1 and chunks_of(parts, 66) == 3
    with pytest.raises(ValueError, match=rf"--max_token_length is {tokens}. It must be a multiple of 22 .* up to 176"):
        chunks_of(parts, tokens)
