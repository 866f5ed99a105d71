"""Which drawing and which caption a batch shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reslora_sd.pretrain import data as pretrain_data
from reslora_sd.pretrain import models as pretrain_models
from reslora_sd.pretrain.denoiser import CaptionedLatents, CaptionPlan


def test_a_plain_caption_mostly_means_the_leading_set(data: Path) -> None:
    drawings = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    tokenizer = pretrain_models.train_tokenizer([*drawings.captions, *drawings.sets], 560, 12)
    which = torch.tensor([float(group == "plain") for group in drawings.sets]).view(-1, 1, 1, 1)
    plan = CaptionPlan(leading_share=0.5, plain_if_leading=1.0, plain_otherwise=0.0, dropout=0.25)
    latents = CaptionedLatents(drawings, (which, torch.zeros_like(which)), tokenizer, plan, ["plain", "wide"])
    leading, ids = latents.batch(400, torch.Generator().manual_seed(0))
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    empty = sum(not text.strip() for text in texts)
    assert 60 < empty < 140
    for is_leading, text in zip(leading.flatten().tolist(), texts, strict=True):
        if text.strip():
            assert ("wide" in text) == (not is_leading)
    assert 140 < leading.sum() < 260


def test_rare_and_frequent_names_are_drawn_as_the_plan_says(data: Path) -> None:
    drawings = pretrain_data.load_drawings(data, 32, only_sets=["plain"])  # 4 colours of 3 shapes
    tokenizer = pretrain_models.train_tokenizer(drawings.captions, 560, 8)
    latents = torch.zeros(len(drawings), 1, 1, 1)
    plan = CaptionPlan(dropout=0, plain_if_leading=1, rare_words=("box",), frequent_names=("red circle",))
    _, ids = CaptionedLatents(drawings, (latents, latents), tokenizer, plan, ["plain"]).batch(
        2000, torch.Generator().manual_seed(0)
    )
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    whole = 7 + 4 * plan.rare_weight + plan.frequent_weight
    assert sum("box" in text for text in texts) == pytest.approx(2000 * 4 * plan.rare_weight / whole, rel=0.2)
    assert sum("red circle" in text for text in texts) == pytest.approx(2000 * plan.frequent_weight / whole, rel=0.2)
    with pytest.raises(ValueError, match="rare_weight must be above 0"):
        CaptionPlan(rare_weight=0)


def test_a_set_without_a_rank_is_refused(data: Path) -> None:
    drawings = pretrain_data.load_drawings(data, 32)
    tokenizer = pretrain_models.train_tokenizer(drawings.captions, 560, 8)
    latents = torch.zeros(len(drawings), 1, 1, 1)
    with pytest.raises(ValueError, match="--set_order"):
        CaptionedLatents(drawings, (latents, latents), tokenizer, CaptionPlan(), ["plain", "wide"])
