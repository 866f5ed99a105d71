"""Pretraining on generated drawings and tiny settings: data, loop, exact resume, the folder."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from reslora_sd.pretrain import data as pretrain_data
from reslora_sd.pretrain import models as pretrain_models
from reslora_sd.pretrain import vae as pretrain_vae
from reslora_sd.pretrain.denoiser import CaptionedLatents, CaptionPlan
from reslora_sd.pretrain.loop import Stage, StageSettings, WorkClock
from reslora_sd.pretrain.optimizer import orthogonalised
from tests.scripts import load_script

COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("circle", "box", "cross")


def drawing(colour: str, shape: str, inset: int) -> bytes:
    picture = Image.new("RGB", (32, 32), "white")
    pen, box = ImageDraw.Draw(picture), (inset, inset, 31 - inset, 31 - inset)
    if shape == "circle":
        pen.ellipse(box, fill=colour, outline="black")
    elif shape == "box":
        pen.rectangle(box, fill=colour, outline="black")
    else:
        pen.line(box, fill=colour, width=4)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_parquet(folder: Path) -> Path:
    """Two training sets of twelve names, one of which runs into the border, and an unseen one."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, inset in (("plain", 6), ("wide", 0), ("openmoji", 4)):
        rows = [
            {
                "image": {"bytes": drawing(colour, shape, inset), "path": None},
                "text": f"{colour} {shape}",
                "codepoint": f"1F{i}{j}",
                "set": group,
            }
            for i, colour in enumerate(COLOURS)
            for j, shape in enumerate(SHAPES)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{group}.parquet")
    return folder


def tiny_arguments(data: Path, output: Path, *more: str) -> list[str]:
    text = (
        f"--data_dir {data} --output_dir {output} --size 32 --vae_channels 8 8 16 --unet_channels 16 32 "
        "--unet_layers 1 --text_width 32 --text_layers 1 --tokens 8 --vocabulary 560 --vae_steps 4 "
        "--unet_steps 4 --vae_batch_size 4 --unet_batch_size 4 --workers 2 --synthetic_drawings 0 "
        "--save_every 2 --log_every 1 --left_out_names 2 --sample_steps 2 --warmup_steps 1 "
        "--no_bf16 --set_order plain wide"
    )
    return [*text.split(), "--sample_prompts", "red circle", "blue box", *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    script = load_script("pretrain_tiny_sd")
    script.main(script.parse_args(tiny_arguments(data, output)))
    return output


# data


def test_parquet_and_imagefolder_give_the_same_drawings(data: Path, tmp_path: Path) -> None:
    rows = pyarrow.parquet.read_table(data / "plain.parquet").to_pylist()
    lines = []
    for row in rows:
        (tmp_path / f"{row['text']}.png").write_bytes(row["image"]["bytes"])
        lines.append(json.dumps({"file_name": f"{row['text']}.png", "text": row["text"]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    from_folder = pretrain_data.load_drawings(tmp_path, 32)
    from_parquet = pretrain_data.load_drawings(data, 32, only_sets=["plain"])
    assert torch.equal(from_folder.pictures, from_parquet.pictures)
    assert from_folder.captions == from_parquet.captions


def test_left_out_sets_are_not_read(data: Path) -> None:
    drawings = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    assert set(drawings.sets) == {"plain", "wide"} and len(drawings) == 24


def test_no_name_is_on_both_sides_of_the_split(data: Path) -> None:
    inside, outside = pretrain_data.split_by_name(pretrain_data.load_drawings(data, 32), 3)
    assert not set(inside.names) & set(outside.names)
    assert len(set(outside.names)) == 3 and len(outside) == 9


def test_drawings_that_fill_the_canvas_get_a_white_margin_and_others_stay(data: Path) -> None:
    before = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    after = pretrain_data.with_white_margin(before)
    assert pretrain_data.border_level(after.pictures).min() == 255
    plain = torch.tensor([group == "plain" for group in before.sets])
    assert torch.equal(after.pictures[plain], before.pictures[plain])
    assert not torch.equal(after.pictures[~plain], before.pictures[~plain])


def test_bad_data_folders_are_refused_with_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*missing"):
        pretrain_data.load_drawings(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no metadata\.jsonl"):
        pretrain_data.load_drawings(tmp_path)
    with pytest.raises(ValueError, match=r"no set \['nobody'\]"):
        pretrain_data.load_drawings(data, only_sets=["nobody"])
    with pytest.raises(ValueError, match="Leave out fewer sets"):
        pretrain_data.load_drawings(data, leave_out_sets=["plain", "wide", "openmoji"])
    table = pyarrow.Table.from_pylist([{"painting": b"", "text": "x"}])
    pyarrow.parquet.write_table(table, tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match="Rename one to 'image'"):
        pretrain_data.load_drawings(tmp_path)
    (tmp_path / "wrong.parquet").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\nnowhere.png,a cat\n")
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        pretrain_data.load_drawings(tmp_path)


def test_augmented_drawings_keep_shape_and_range() -> None:
    pictures = torch.rand(40, 3, 32, 32) * 2 - 1
    changed = pretrain_vae.augment(pictures, torch.Generator().manual_seed(0))
    assert changed.shape == pictures.shape
    assert changed.min() >= -1.0001 and changed.max() <= 1.0001


def test_synthetic_drawings_follow_their_seed() -> None:
    pytest.importorskip("resvg_py")
    from reslora_sd.pretrain.synthetic import random_svg, synthetic_drawings

    first, again, other = (synthetic_drawings(3, 32, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert random_svg(random.Random(0)).startswith("<svg")


# captions


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


# loop


def test_orthogonalised_is_near_the_polar_factor() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(orthogonalised(matrix).flatten(), (u @ v).flatten(), dim=0) > 0.97
    assert torch.allclose(orthogonalised(matrix.T), orthogonalised(matrix).T, atol=1e-4)


def test_a_pause_counts_as_a_usual_step() -> None:
    clock = WorkClock()
    for _ in range(10):
        clock.count(1.0)
    clock.count(3600.0)
    assert clock.seconds == 14.0


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        StageSettings(1e-3, 4)
    with pytest.raises(ValueError, match="exactly one"):
        StageSettings(1e-3, 4, max_steps=3, budget_seconds=3)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        StageSettings(0.0, 4, max_steps=3)
    with pytest.raises(ValueError, match="ema_decay"):
        StageSettings(1e-3, 4, max_steps=3, ema_decay=1.0)


def test_a_budget_of_seconds_ends_the_stage(tmp_path: Path) -> None:
    settings = StageSettings(1e-3, 2, budget_seconds=0.05, workers=1)
    stage = Stage("line", nn.ModuleDict({"line": nn.Linear(8, 8)}), settings, tmp_path, seed=0)
    stage.run(lambda modules, generator, _: modules["line"](torch.randn(2, 8, generator=generator)).square().mean())
    assert stage.progress == 1 and stage.step > 0 and stage.checkpoint.is_file()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    settings = StageSettings(1e-3, 2, max_steps=2, workers=1, log_every=1)
    stage = Stage("line", nn.ModuleDict({"line": nn.Linear(8, 8)}), settings, tmp_path, seed=0)
    with pytest.raises(RuntimeError, match="nan"):
        stage.run(lambda modules, _, __: modules["line"](torch.ones(8)).sum() * float("nan"))


# script


def test_a_resumed_run_equals_a_straight_run_bit_for_bit(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("pretrain_tiny_sd")
    run = Stage.run

    def stop_early(self: Stage, loss, on_save=None, stop_after=None) -> None:  # type: ignore[no-untyped-def]
        run(self, loss, on_save, stop_after=3)
        if self.progress < 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "run", stop_early)
    with pytest.raises(KeyboardInterrupt):  # in the first stage
        script.main(script.parse_args(tiny_arguments(data, tmp_path)))
    with pytest.raises(KeyboardInterrupt):  # in the second
        script.main(script.parse_args(tiny_arguments(data, tmp_path, "--resume")))
    script.main(script.parse_args(tiny_arguments(data, tmp_path, "--resume")))
    for stage in ("vae", "denoiser"):
        straight = torch.load(finished / stage / "checkpoint.pt", weights_only=True)
        resumed = torch.load(tmp_path / stage / "checkpoint.pt", weights_only=True)
        assert straight["step"] == resumed["step"] == 4
        for kind in ("modules", "averaged"):
            for name, value in straight[kind].items():
                assert torch.equal(value, resumed[kind][name]), (stage, kind, name)
        assert str(straight["optimizer"]) == str(resumed["optimizer"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_folder_loads_in_plain_diffusers(finished: Path, dtype: torch.dtype) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(finished / "pipeline", dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == dtype
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    pictures = pipeline("red circle", num_inference_steps=2, guidance_scale=4.0, output_type="np").images
    assert pictures.shape == (1, 32, 32, 3)


def test_the_folder_holds_float16_averaged_weights_and_the_names(data: Path, finished: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(finished / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    averaged = torch.load(finished / "denoiser" / "checkpoint.pt", weights_only=True)["averaged"]
    for name, value in weights.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, averaged[f"unet.{name}"].half()), name
    names = json.loads((finished / "pipeline" / "training_names.json").read_text())
    drawings = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    assert set(names) == set(pretrain_data.split_by_name(drawings, 2)[0].names)


def test_progress_is_logged_and_samples_are_drawn(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "denoiser" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    with Image.open(finished / "samples" / "step-000002.png") as sheet:
        assert sheet.width > 2 * 32


def test_an_earlier_run_is_not_overwritten(data: Path, finished: Path) -> None:
    script = load_script("pretrain_tiny_sd")
    with pytest.raises(FileExistsError, match="--resume"):
        script.main(script.parse_args(tiny_arguments(data, finished)))


def test_a_checkpoint_of_another_model_is_refused(data: Path, finished: Path) -> None:
    script = load_script("pretrain_tiny_sd")
    arguments = tiny_arguments(data, finished, "--resume", "--vae_channels", "8", "16", "16")
    with pytest.raises(ValueError, match="other model settings"):
        script.main(script.parse_args(arguments))


def test_another_run_starts_from_a_pipeline_folder(data: Path, finished: Path, tmp_path: Path) -> None:
    script = load_script("pretrain_tiny_sd")
    arguments = tiny_arguments(data, tmp_path, "--init_from", str(finished / "pipeline"), "--unet_steps", "1")
    script.main(script.parse_args([*arguments, "--unet_learning_rate", "1e-9", "--save_every", "50"]))
    before, after = (
        torch.load(folder / "denoiser" / "checkpoint.pt", weights_only=True) for folder in (finished, tmp_path)
    )
    for name, value in before["averaged"].items():
        assert torch.allclose(value, after["modules"][name], atol=2e-3), name
    for file in (tmp_path / "pipeline").glob("*/config.json"):
        assert str(finished) not in file.read_text()


def test_a_batch_that_cannot_be_shared_is_refused(data: Path, tmp_path: Path) -> None:
    script = load_script("pretrain_tiny_sd")
    with pytest.raises(ValueError, match="multiple of --workers"):
        script.main(script.parse_args(tiny_arguments(data, tmp_path, "--vae_batch_size", "5")))
