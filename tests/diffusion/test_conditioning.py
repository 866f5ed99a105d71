"""Long captions in chunks."""

import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image

from reslora_sd.diffusion import encoded, encoded_captions
from reslora_sd.diffusion.captioned import CaptionedImages
from reslora_sd.diffusion.conditioning import chunks_of, encode_captions, warn_of_long
from reslora_sd.diffusion.encoded import EncodedImages
from reslora_sd.diffusion.encodings import encodings_of
from reslora_sd.diffusion.framing import Framing
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


@pytest.mark.parametrize(
    "where", ["memory", "too many for memory", "disk", "too many for the start", "trained encoder"]
)
def test_captions_that_are_cut_are_warned_of_once_wherever_they_are_kept(parts, tmp_path, caplog, monkeypatch, where):
    parts = replace(parts, adapted_text=where == "trained encoder")
    if "many" in where:
        monkeypatch.setattr(encoded, "CHECKED_UP_TO", 0)
        monkeypatch.setattr(encoded_captions, "MOST_CACHED", 0)
    if where in ("disk", "too many for the start"):
        parts.encodings = encodings_of(str(tmp_path), parts)
    images = CaptionedImages([[LONG, REST]], lambda _: Image.new("RGB", (16, 16)), "a data set")
    EncodedImages(parts, images, Framing(16), cache=False, check=False)
    assert caplog.text.count("1 captions are longer than the text encoder's 24 tokens") == 1


def test_drawn_wordings_are_neither_on_disk_nor_kept_in_memory(parts, tmp_path):
    parts = replace(parts)
    parts.encodings = encodings_of(str(tmp_path), parts)
    captions = encoded_captions.Captions(parts, ["", "red, blue"], quiet=True, share=encoded_captions.Share())
    words = captions(["blue, red", "red, blue", ""])
    plain = encode_captions(parts, ["blue, red"], quiet=True)["blue, red"].tokens
    torch.testing.assert_close(words[0].tokens, plain, rtol=1e-5, atol=1e-5)
    assert set(captions._kept) == {"", "red, blue"} and parts.encodings.disk.size()[0] == 2
