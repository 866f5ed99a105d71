"""Drawing with the adapters of real runs: values, isolation of requests, stopping, and what run.json may name."""

import dataclasses
import json
import shutil
import threading
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageChops

from app.draw_request import DrawRequest, Stopped
from app.generator import DrawJob, PictureGenerator
from app.pictures import open_picture
from app.wording import variant_name
from reslora_sd import PlainLoRA
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.diffusion.models import DEFAULT_MODEL
from reslora_sd.diffusion.resuming import DATA_PATHS
from reslora_sd.runs.reader import read_run
from reslora_sd.runs.run import PictureKey

REQUEST = DrawRequest("red apple", steps=3, seed=42, guidance=4.0, approach="unmerged")


@pytest.fixture(scope="module")
def runs(real_runs):
    return {name: read_run(path) for name, path in real_runs.items()}


@pytest.fixture(scope="module")
def generator(real_runs):
    return PictureGenerator([next(iter(real_runs.values())).parent])


def job(request=REQUEST, stop=None, said=None):
    return DrawJob(
        request, lambda what, share: said.append((what, share)) if said is not None else None, stop or threading.Event()
    )


def difference(one, other):
    return max(ImageChops.difference(one, other).tobytes())


def test_the_picture_of_a_checkpoint_is_the_one_that_training_drew(generator, runs):
    for run in runs.values():
        for step in (2, 4):
            drawn, how = generator.draw_adapted(run, step, job())
            file = run.pictures[PictureKey("red apple", 42, "unmerged", step)].file
            assert how == "as trained" and difference(drawn, open_picture(run.path / "validation", file)) <= 2


def test_the_end_of_a_prompt_that_the_model_does_not_read_is_told(generator, runs):
    assert PictureGenerator().unread("word " * 200) == ""  # no model says so yet
    generator.draw_base(runs["lora"], job(dataclasses.replace(REQUEST, steps=1)))
    limit = generator._parts[1].tokenizer.model_max_length - 2
    assert generator.unread("apple " * limit) == ""
    assert generator.unread("apple " * limit + "by the sea") == "by the sea"


def test_the_merged_lora_draws_what_a_plain_pipeline_draws_with_the_exported_file(generator, runs):
    for run in runs.values():
        drawn, how = generator.draw_adapted(run, 4, job(dataclasses.replace(REQUEST, approach="best merge")))
        assert how == variant_name(run.report["approach"])
        pipeline = StableDiffusionPipeline.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
        pipeline.load_lora_weights(str(run.path))
        pipeline.set_progress_bar_config(disable=True)
        seed = torch.Generator("cpu").manual_seed(42)
        plain = pipeline("red apple", num_inference_steps=3, guidance_scale=4.0, generator=seed).images[0]
        assert difference(drawn, plain) <= 2


def test_every_merge_can_be_drawn_at_a_checkpoint_in_the_middle(generator, runs):
    run = runs["reslora_is"]
    found = {}
    for approach in ("none", "input", "weights", "least_squares"):
        said: list[Any] = []
        found[approach], how = generator.draw_adapted(
            run, 2, job(dataclasses.replace(REQUEST, approach=approach), said=said)
        )
        assert how == variant_name(approach)
        assert any("statistics" in what for what, _ in said) == (approach in ("input", "least_squares"))
    assert len({picture.tobytes() for picture in found.values()}) == 4
    again: list[Any] = []
    generator.draw_adapted(run, 2, job(dataclasses.replace(REQUEST, approach="input"), said=again))
    assert not any("statistics" in what for what, _ in again)  # kept
    _, how = generator.draw_adapted(runs["lora"], 2, job(dataclasses.replace(REQUEST, approach="least_squares")))
    assert how == "merged exactly"


@pytest.mark.parametrize("form", ["diffusers", "kohya", "peft"])
def test_a_lora_file_of_others_draws_what_the_run_draws_whose_lora_it_is(generator, runs, real_runs, tmp_path, form):
    run = runs["lora"]
    plain = PlainLoRA.load(real_runs["lora"])
    target = tmp_path / ("lora" if form == "peft" else f"{form}.safetensors")
    save: Any = {"diffusers": plain.save_diffusers, "kohya": plain.save_kohya, "peft": plain.save_peft}[form]
    save(target)
    request = dataclasses.replace(REQUEST, approach="best merge", strength=1.5)
    drawn = generator.draw_file(run, target, job(request))
    assert difference(drawn, generator.draw_adapted(run, 4, job(request))[0]) <= 1
    assert difference(drawn, generator.draw_base(run, job())) > 1


def test_a_lora_of_another_model_is_told_and_leaves_the_model_as_it_was(generator, runs, tmp_path):
    before = generator.draw_base(runs["lora"], job())
    block = PlainBlock(torch.ones(2, 9), torch.ones(9, 2), 1.0)
    other = PlainLoRA({}, text_encoders={"text_encoder": {"text_model.encoder.layers.99.self_attn.q_proj": block}})
    other.save_kohya(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="belongs to another model"):
        generator.draw_file(runs["lora"], tmp_path / "other.safetensors", job())
    assert generator.draw_base(runs["lora"], job()).tobytes() == before.tobytes()


def test_statistics_for_a_merge_are_those_that_training_took(generator, runs):
    run = runs["reslora_is"]
    generator.draw_adapted(run, 4, job(dataclasses.replace(REQUEST, approach="input")))
    merged = next(
        plain for (_, step, approach, _), plain in generator._merged.items() if (step, approach) == (4, "input")
    )
    for name, block in run.report["other_approaches"]["input"].items():
        assert merged.reports[name].alpha == pytest.approx(block["alpha"], rel=1e-4)


def test_strength_0_is_the_base_model_and_1_is_not(generator, runs):
    run = runs["reslora_is"]
    base = generator.draw_base(run, job())
    for approach in ("unmerged", "best merge"):
        weak, _ = generator.draw_adapted(run, 4, job(dataclasses.replace(REQUEST, approach=approach, strength=0.0)))
        full, _ = generator.draw_adapted(run, 4, job(dataclasses.replace(REQUEST, approach=approach)))
        assert difference(weak, base) <= 1 < difference(full, base)


def test_requests_at_the_same_time_draw_what_each_draws_alone(generator, runs):
    asked = [("lora", 2, REQUEST), ("reslora_is", 4, dataclasses.replace(REQUEST, prompt="rocket", approach="none"))]
    alone = [generator.draw_adapted(runs[name], step, job(request))[0].tobytes() for name, step, request in asked]
    together = [b"", b""]

    def draw(place):
        name, step, request = asked[place]
        together[place] = generator.draw_adapted(runs[name], step, job(request))[0].tobytes()

    threads = [threading.Thread(target=draw, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_request_that_is_stopped_ends_at_once_and_leaves_nothing_behind(generator, runs):
    before = generator.draw_base(runs["lora"], job()).tobytes()
    stop, steps = threading.Event(), []

    def report(what, share):
        steps.append(share)
        stop.set()

    with pytest.raises(Stopped):
        generator.draw_adapted(runs["lora"], 2, DrawJob(dataclasses.replace(REQUEST, steps=50), report, stop))
    assert len(steps) == 1
    assert generator.draw_base(runs["lora"], job()).tobytes() == before


def test_progress_is_told_step_by_step(generator, runs):
    said: list[Any] = []
    generator.draw_base(runs["lora"], job(said=said))
    assert said == [("drawing", pytest.approx((number + 1) / 3)) for number in range(3)]


def test_a_step_without_a_checkpoint_names_those_that_there_are(generator, runs):
    with pytest.raises(ValueError, match=r"no checkpoint of step 3\. Choose one of: 2, 4"):
        generator.draw_adapted(runs["lora"], 3, job())


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
def test_run_json_cannot_have_models_elsewhere_opened(generator, foreign, name):
    with pytest.raises(ValueError, match="is outside the folders of this page"):
        generator.draw_base(foreign(base_model=name), job())


@pytest.mark.parametrize("key", ["model_config", "tokenizer_name"])
def test_run_json_cannot_have_configs_elsewhere_opened(generator, foreign, key):
    with pytest.raises(ValueError, match=f"{key} '/etc', which is outside the folders of this page"):
        generator.draw_base(foreign(arguments={key: "/etc"}), job())


def test_run_json_cannot_have_data_elsewhere_read(generator, foreign, picture_folder):
    run = foreign(arguments={"train_data_dir": str(picture_folder)})
    request = dataclasses.replace(REQUEST, approach="least_squares")
    with pytest.raises(ValueError, match=r"train_data_dir .* outside the folders of this page"):
        generator.draw_adapted(run, 2, job(request))
    _, how = PictureGenerator([picture_folder]).draw_adapted(run, 2, job(request))
    assert how == "merged by least squares"


@pytest.mark.parametrize("key", [*DATA_PATHS, "mask"])
def test_no_place_of_data_is_opened_elsewhere(picture_folder, tmp_path, key):
    inside = tmp_path / "allowed"
    inside.mkdir()
    given = {key: str(picture_folder)}
    if key == "mask":
        (inside / "set.toml").write_text(f'[[folders]]\npath = "."\nmask = "{picture_folder}"\n')
        given = {"dataset_config": str(inside / "set.toml")}
    with pytest.raises(ValueError, match="outside the folders of this page"):
        PictureGenerator([inside])._check_data(given)


def test_a_config_of_several_folders_cannot_have_data_elsewhere_read(foreign, picture_folder):
    request = dataclasses.replace(REQUEST, approach="least_squares")
    inside = picture_folder.parent / "allowed"
    inside.mkdir()
    generator = PictureGenerator([inside])
    for folder, words in ((picture_folder, "dataset_config "), (inside, f"folder of {inside / 'set.toml'} ")):
        (folder / "set.toml").write_text(f'[[folders]]\npath = "{picture_folder}"\n')
        given = {"train_data_dir": None, "dataset_name": None, "dataset_config": str(folder / "set.toml")}
        with pytest.raises(ValueError, match=rf"{words}.* outside the folders of this page"):
            generator.draw_adapted(foreign(arguments=given), 2, job(request))


def test_a_run_json_without_a_model_or_arguments_is_told(generator, foreign):
    with pytest.raises(ValueError, match="names no base model"):
        generator.draw_base(foreign(base_model=""), job())
    run = foreign(arguments={})
    run.settings["arguments"] = {}
    with pytest.raises(ValueError, match=r"run\.json doesn't say"):
        generator.draw_adapted(run, 2, job(dataclasses.replace(REQUEST, approach="input")))


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
def test_a_request_out_of_range_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(REQUEST, **change)


def test_pictures_are_rgb_of_the_models_size(generator, runs):
    picture = generator.draw_base(runs["lora"], job())
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == (64, 64)


@pytest.mark.parametrize(
    "arguments", [{"resolution": 30_000}, {"resolution": -64}, {"resolution": "64"}, {"resolution": 4}]
)
def test_sizes_that_no_picture_can_have_are_told(generator, foreign, arguments):
    run = foreign(arguments=arguments)
    for request in (REQUEST, dataclasses.replace(REQUEST, approach="least_squares")):
        with pytest.raises(ValueError, match=r"run\.json says a resolution of .* in steps of 8"):
            generator.draw_adapted(run, 2, job(request))


def test_batches_that_are_too_large_for_a_page_are_told(generator, foreign):
    run = foreign(arguments={"train_batch_size": 10**6})
    with pytest.raises(ValueError, match=r"batches of 1000000 pictures, .* at most 256"):
        generator.draw_adapted(run, 2, job(dataclasses.replace(REQUEST, approach="input")))
