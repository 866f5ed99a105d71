"""`--init_lora`: a run that starts from a LoRA is that LoRA at step 0, says what was taken, and needs it only once."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from reslora_sd import PlainLoRA
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.diffusion import starting
from reslora_sd.diffusion.adapters import add_adapters, path_in
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.starting import Start
from reslora_sd.runs.jsonl import read_jsonl
from tests.single_files import small_pipeline
from tests.snapshots import snapshot
from tests.unets import small_unet

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
DRAWN = ("--validation_prompts", "colour 1", "--validation_steps", 9, "--validation_inference_steps", 1)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"


def lora_of_others(rank=2, more=()):
    """Random pairs for every projection of the tests' U-Net."""
    generator = torch.Generator().manual_seed(3)
    blocks = {}
    for name, module in small_unet().named_modules():
        if name.endswith(ATTENTION) or name in more:
            A = torch.randn(rank, module.in_features, generator=generator)
            B = torch.randn(module.out_features, rank, generator=generator)
            blocks[name] = PlainBlock(A, B / 20, 2.0)
    return PlainLoRA(blocks)


@pytest.fixture
def lora(tmp_path):
    """A file of such a LoRA."""
    lora_of_others().save_diffusers(tmp_path / "others.safetensors")
    return tmp_path / "others.safetensors"


def said_of(run):
    return json.loads((run / "run.json").read_text())["init_lora"]


def picture(run, step, approach):
    (row,) = [
        row
        for row in read_jsonl(run / "validation/index.jsonl")
        if (row["step"], row["merge_approach"]) == (step, approach)
    ]
    with Image.open(run / "validation" / row["file"]) as image:
        return image.tobytes()


def test_training_goes_on_where_another_run_ended_and_the_base_stays_the_models_own(train, tmp_path, caplog):
    caplog.set_level("INFO", "reslora_sd")
    flags = ("--method", "lora", *DRAWN, "--learning_rate", 0.05)
    first = train(*flags, "--max_train_steps", 3, "--save_precision", "float32", output="first")
    second = train(*flags, "--max_train_steps", 1, "--init_lora", first, output="second")
    assert picture(second, 0, "unmerged") == picture(first, 3, "exact") != picture(first, 0, "unmerged")
    assert picture(second, 1, "base") == picture(first, 3, "base")
    report = json.loads((second / "merge_report.json").read_text())["end_to_end"]
    assert report["loss"]["base"] != pytest.approx(report["loss"]["unmerged"], rel=1e-3)
    about = said_of(second)
    assert about["drift"] < 1e-4 and about["missing"] == about["left_out"] == []
    assert len(about["blocks"]) == 48
    assert all(one == {"rank": 4, "cut": 0.0, "error": 0.0} for one in about["blocks"].values())
    assert "Starting from" in caplog.text and "48 of 48 blocks" in caplog.text


@pytest.mark.parametrize(
    ("method", "rank", "exact"),
    [
        ("reslora_is", 2, False),
        ("reslora_bs", 4, True),
        ("reslora_ms", 2, False),
        ("reslora_ms", 8, True),
        ("reslora_frozen", 4, True),
    ],
)
def test_every_method_starts_and_tells_how_close_it_is(train_only, tmp_path, caplog, method, rank, exact):
    caplog.set_level("INFO", "reslora_sd")
    file = tmp_path / "kohya.safetensors"
    lora_of_others().save_kohya(file)
    run = train_only("--method", method, "--rank", rank, "--init_lora", file, "--max_train_steps", 1)
    about = said_of(run)
    errors = [one["error"] for one in about["blocks"].values()]
    assert (about["drift"] < 1e-4) == exact == (max(errors) == 0) and about["drift"] < 0.9
    assert ("can only come close" in caplog.text) != exact
    assert ("have a rank below" in caplog.text) == (rank > 2)
    assert len(about["sha256"]) == 64 and about["file"] == str(file)


def test_a_resumed_run_needs_no_file_and_no_other_one_may_be_named(train_only, lora, tmp_path):
    flags = ("--method", "lora", "--checkpointing_steps", 1)
    straight = train_only(*flags, "--init_lora", lora, "--max_train_steps", 2, output="straight")
    run = train_only(*flags, "--init_lora", lora, "--max_train_steps", 1)
    lora.rename(tmp_path / "moved.safetensors")
    with pytest.raises(ValueError, match=r"--init_lora was \".*others\.safetensors\" and is \".*moved\.safetensors\""):
        train_only(*flags, "--init_lora", tmp_path / "moved.safetensors", "--resume_from_checkpoint", "latest")
    with pytest.raises(ValueError, match=r"--init_lora was \".*others\.safetensors\" and is left out"):
        train_only(*flags, "--resume_from_checkpoint", "latest")
    train_only(*flags, "--init_lora", lora, "--max_train_steps", 2, "--resume_from_checkpoint", "latest")
    losses = [[row["loss"] for row in read_jsonl(one / "log.jsonl")] for one in (straight, run)]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert said_of(run)["blocks"] == said_of(straight)["blocks"]
    named = ("--init_lora", lora, "--resume_from_checkpoint", run / "checkpoint-1")
    with pytest.raises(ValueError, match=r"both say where the adapter starts\. Leave one out"):
        train_only(*flags, *named, output="another")


def test_what_has_no_place_is_refused_before_anything_is_written_and_left_out_if_asked(train_only, tmp_path, caplog):
    caplog.set_level("INFO", "reslora_sd")
    file = tmp_path / "more.safetensors"
    lora_of_others(more=[FEED_FORWARD]).save_diffusers(file)
    flags = ("--method", "lora", "--max_train_steps", 1, "--init_lora", file)
    with pytest.raises(
        ValueError, match=rf"--init_lora .*more\.safetensors: .* no block for 1 layers .*{FEED_FORWARD}"
    ):
        train_only(*flags)
    assert not (tmp_path / "run" / "run.json").exists()
    run = train_only(*flags, "--init_lora_partial")
    assert said_of(run)["left_out"] == [FEED_FORWARD] and f"1 are left out: {FEED_FORWARD}" in caplog.text
    with pytest.raises(ValueError, match=r"--init_lora_partial is given without --init_lora"):
        train_only("--init_lora_partial", output="without")


def test_another_models_file_and_no_file_at_all_are_refused_and_change_nothing(train_only, lora, tmp_path):
    run = train_only("--method", "lora", "--max_train_steps", 1)
    before = snapshot(run)
    wide = {name: PlainBlock(torch.ones(1, 99), torch.ones(16, 1), 1.0) for name in list(lora_of_others().blocks)[:1]}
    PlainLoRA(wide).save_diffusers(tmp_path / "wide.safetensors")
    for name, words in (("wide.safetensors", "and 16x99 in this LoRA"), ("none.safetensors", "There is no file")):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            train_only("--overwrite_output_dir", "--init_lora", tmp_path / name)
    assert snapshot(run) == before


LAYER = "text_model.encoder.layers.{}.{}"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    place = tmp_path_factory.mktemp("sdxl")
    small_pipeline("sdxl").save_pretrained(place)
    return place


def layers_of(model, *paths):
    """Pairs for a text encoder's layers, by the names that files have."""
    blocks = {}
    for path in paths:
        linear = model.get_submodule(path_in(model, path))
        blocks[path] = PlainBlock(torch.ones(2, linear.in_features), torch.ones(linear.out_features, 2), 1.0)
    return blocks


def test_what_an_ordinary_lora_of_text_encoders_has_is_refused_with_advice_that_works(sdxl):
    """kohya's scripts train fc1, fc2, and the last layer of SDXL's first encoder, which is never read."""
    parts = load_parts(sdxl)
    first, last = LAYER.format(0, "self_attn.q_proj"), LAYER.format(1, "self_attn.q_proj")
    in_unet = next(name for name, _ in parts.unet.named_modules() if name.endswith("attn1.to_q"))
    to_q = parts.unet.get_submodule(in_unet)
    unet = {in_unet: PlainBlock(torch.ones(2, to_q.in_features), torch.ones(to_q.out_features, 2), 1.0)}
    encoder = layers_of(parts.text_encoder, first, last)
    more = layers_of(parts.text_encoder, LAYER.format(0, "mlp.fc1"))
    words = parse_settings(["--method", "lora", "--rank", "2"])
    adapters = add_adapters(parts, words)
    with pytest.raises(
        ValueError, match=rf"no block for 2 layers .*: text_encoder\.{first}, .*Add --train_text_encoder"
    ):
        Start(PlainLoRA(unet, text_encoders={"text_encoder": encoder})).check(adapters)
    Start(PlainLoRA(unet, text_encoders={"text_encoder": encoder}), partial=True).check(adapters)
    with pytest.raises(ValueError, match=r"no block for anything in this LoRA, which has text_encoder\."):
        Start(PlainLoRA({}, text_encoders={"text_encoder": encoder}), partial=True).check(adapters)
    adapters.remove()

    adapters = add_adapters(parts, parse_settings(["--method", "lora", "--rank", "2", "--train_text_encoder"]))
    matched = Start(PlainLoRA(unet, text_encoders={"text_encoder": encoder}))._match(adapters)
    assert [len(one.taken.blocks) for one in matched.values()] == [1, 1, 0]
    assert [path.endswith(last.removeprefix("text_model.")) for path in matched["text_encoder"].left_out] == [True]
    whole = PlainLoRA(unet, text_encoders={"text_encoder": encoder | more})
    with pytest.raises(ValueError, match=r"no block for 1 layers .*mlp\.fc1\. Of text .*--init_lora_partial") as told:
        Start(whole).check(adapters)
    assert "target_modules" not in str(told.value)
    assert len(Start(whole, partial=True)._match(adapters)["text_encoder"].left_out) == 2
    alone = Start(PlainLoRA({}, text_encoders={"text_encoder": encoder}))._match(adapters)
    before = adapters.unet.state_dict()
    started = starting._start(adapters, parts, alone, list)
    assert len(started) == 1 and all(torch.equal(before[k], v) for k, v in adapters.unet.state_dict().items())
    assert adapters.text["text_encoder"].blocks[next(iter(alone["text_encoder"].taken.blocks))].lora_B.any()
