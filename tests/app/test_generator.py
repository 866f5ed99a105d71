"""Drawing with the adapters of real runs: values, isolation of requests, stopping, and what run.json may name."""

import dataclasses
import json
import shutil
import threading

import pytest
import torch
from app.generate import Request, Studio
from app.run import Key
from app.runs import read_run
from app.wishes import Stopped, Wish
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageChops

from app.pictures import open_picture
from reslora_sd.diffusion.models import DEFAULT_MODEL

WISH = Wish("red apple", steps=3, seed=42, guidance=4.0, approach="unmerged")


@pytest.fixture(scope="module")
def runs(real_runs):
    return {name: read_run(path) for name, path in real_runs.items()}


@pytest.fixture(scope="module")
def studio(real_runs):
    return Studio([next(iter(real_runs.values())).parent])


def request(wish=WISH, stop=None, said=None):
    return Request(
        wish, lambda what, share: said.append((what, share)) if said is not None else None, stop or threading.Event()
    )


def difference(one, other):
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def test_the_picture_of_a_checkpoint_is_the_one_that_training_drew(studio, runs):
    for run in runs.values():
        for step in (2, 4):
            drawn, how = studio.adapted(run, step, request())
            file = run.pictures[Key("red apple", 42, "unmerged", step)].file
            assert how == "unmerged" and difference(drawn, open_picture(run.path / "validation", file)) <= 2


def test_the_merged_lora_draws_what_a_plain_pipeline_draws_with_the_exported_file(studio, runs):
    for run in runs.values():
        drawn, how = studio.adapted(run, 4, request(dataclasses.replace(WISH, approach="best merge")))
        assert how == f"merged ({run.report['approach']})"
        pipeline = StableDiffusionPipeline.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
        pipeline.load_lora_weights(str(run.path))
        pipeline.set_progress_bar_config(disable=True)
        seed = torch.Generator("cpu").manual_seed(42)
        plain = pipeline("red apple", num_inference_steps=3, guidance_scale=4.0, generator=seed).images[0]
        assert difference(drawn, plain) <= 2


def test_every_merge_can_be_drawn_at_a_checkpoint_in_the_middle(studio, runs):
    run = runs["reslora_is"]
    found = {}
    for approach in ("none", "input", "weights", "least_squares"):
        said = []
        found[approach], how = studio.adapted(run, 2, request(dataclasses.replace(WISH, approach=approach), said=said))
        assert how == f"merged ({approach})"
        assert any("statistics" in what for what, _ in said) == (approach in ("input", "least_squares"))
    assert len({picture.tobytes() for picture in found.values()}) == 4
    again = []
    studio.adapted(run, 2, request(dataclasses.replace(WISH, approach="input"), said=again))
    assert not any("statistics" in what for what, _ in again)  # kept
    _, how = studio.adapted(runs["lora"], 2, request(dataclasses.replace(WISH, approach="least_squares")))
    assert how == "merged (exact)"


def test_statistics_for_a_merge_are_those_that_training_took(studio, runs):
    run = runs["reslora_is"]
    studio.adapted(run, 4, request(dataclasses.replace(WISH, approach="input")))
    merged = next(plain for (_, step, approach, _), plain in studio._merged.items() if (step, approach) == (4, "input"))
    for name, block in run.report["other_approaches"]["input"].items():
        assert merged.reports[name].alpha == pytest.approx(block["alpha"], rel=1e-4)


def test_strength_0_is_the_base_model_and_1_is_not(studio, runs):
    run = runs["reslora_is"]
    base = studio.base(run, request())
    for approach in ("unmerged", "best merge"):
        weak, _ = studio.adapted(run, 4, request(dataclasses.replace(WISH, approach=approach, strength=0.0)))
        full, _ = studio.adapted(run, 4, request(dataclasses.replace(WISH, approach=approach)))
        assert difference(weak, base) <= 1 < difference(full, base)


def test_requests_at_the_same_time_draw_what_each_draws_alone(studio, runs):
    asked = [("lora", 2, WISH), ("reslora_is", 4, dataclasses.replace(WISH, prompt="rocket", approach="none"))]
    alone = [studio.adapted(runs[name], step, request(wish))[0].tobytes() for name, step, wish in asked]
    together = [b"", b""]

    def draw(place):
        name, step, wish = asked[place]
        together[place] = studio.adapted(runs[name], step, request(wish))[0].tobytes()

    threads = [threading.Thread(target=draw, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_request_that_is_stopped_ends_at_once_and_leaves_nothing_behind(studio, runs):
    before = studio.base(runs["lora"], request()).tobytes()
    stop, steps = threading.Event(), []

    def report(what, share):
        steps.append(share)
        stop.set()

    with pytest.raises(Stopped):
        studio.adapted(runs["lora"], 2, Request(dataclasses.replace(WISH, steps=50), report, stop))
    assert len(steps) == 1
    assert studio.base(runs["lora"], request()).tobytes() == before


def test_progress_is_told_step_by_step(studio, runs):
    said = []
    studio.base(runs["lora"], request(said=said))
    assert said == [("drawing", pytest.approx((number + 1) / 3)) for number in range(3)]


def test_a_step_without_a_checkpoint_names_those_that_there_are(studio, runs):
    with pytest.raises(ValueError, match=r"no checkpoint of step 3\. Choose one of: 2, 4"):
        studio.adapted(runs["lora"], 3, request())


@pytest.fixture
def foreign(real_runs, tmp_path):
    """A copy of a run outside the allowed folders, whose run.json can be changed."""

    def make(**changes):
        folder = tmp_path / "foreign"
        shutil.copytree(real_runs["reslora_is"], folder, dirs_exist_ok=True)
        settings = json.loads((folder / "run.json").read_text())
        arguments = {**settings["arguments"], **changes.pop("arguments", {})}
        (folder / "run.json").write_text(json.dumps({**settings, **changes, "arguments": arguments}))
        return read_run(folder)

    return make


@pytest.mark.parametrize("name", ["/etc", "..", "../../x", "./secret", "a/b/c", "a b", "~/x"])
def test_run_json_cannot_have_models_elsewhere_opened(studio, foreign, name):
    with pytest.raises(ValueError, match="is outside the folders of this page"):
        studio.base(foreign(base_model=name), request())


def test_run_json_cannot_have_data_elsewhere_read(studio, foreign, picture_folder):
    run = foreign(arguments={"train_data_dir": str(picture_folder)})
    wish = dataclasses.replace(WISH, approach="least_squares")
    with pytest.raises(ValueError, match=r"train_data_dir .* outside the folders of this page"):
        studio.adapted(run, 2, request(wish))
    _, how = Studio([picture_folder]).adapted(run, 2, request(wish))
    assert how == "merged (least_squares)"


def test_a_run_json_without_a_model_or_arguments_is_told(studio, foreign):
    with pytest.raises(ValueError, match="names no base model"):
        studio.base(foreign(base_model=""), request())
    run = foreign(arguments={})
    run.settings["arguments"] = {}
    with pytest.raises(ValueError, match=r"run\.json doesn't say"):
        studio.adapted(run, 2, request(dataclasses.replace(WISH, approach="input")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "x" * 1001}, "1001 letters"),
        ({"approach": "magic"}, "merge is 'magic'"),
        ({"steps": 0}, "number of steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"strength": 2.5}, "strength is 2.5"),
    ],
)
def test_a_wish_out_of_range_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(WISH, **change)


def test_pictures_are_rgb_of_the_models_size(studio, runs):
    picture = studio.base(runs["lora"], request())
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == (64, 64)
