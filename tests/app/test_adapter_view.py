"""Link plan, merge report, heat map."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import drawings
from app.adapter_view import (
    approaches,
    end_table,
    lora_summary,
    merge_table,
    norm_differences,
    plan_summary,
    planned_blocks,
    short_place,
)
from reslora_sd import PlainLoRA
from reslora_sd.runs.reader import read_run


@pytest.fixture
def runs(made_up_pair):
    return {path.name: read_run(path) for path in made_up_pair}


def test_the_link_plan_of_a_real_run_is_on_the_map(real_runs):
    run = read_run(real_runs["reslora_is"])
    found = planned_blocks(run)
    assert (
        len(found) == 88 and len({block.lane for block in found}) == 8 and len({block.place for block in found}) == 11
    )
    assert plan_summary(run).startswith(
        "88 blocks, 64 with a residual path, 24 that start a chain. A block that starts"
    )


def test_places_have_short_names():
    assert short_place("down_blocks.0.attentions.1.transformer_blocks.0") == "down 0.1"
    assert short_place("up_blocks.2.attentions.0.transformer_blocks.3") == "up 2.0.3"
    assert short_place("mid_block.attentions.0.transformer_blocks.0") == "mid 0"
    assert short_place("model.layers.3.self") == "model.layers.3.self"


def test_a_block_has_its_factor_rank_error_and_norm(real_runs):
    run = read_run(real_runs["reslora_is"])
    assert approaches(run)[0] == "least_squares" and set(approaches(run)) == {
        "least_squares",
        "none",
        "input",
        "weights",
    }
    table = merge_table(run, "input")
    assert len(table) == 88 and float(table["factor"][0]) == 1.0 and table["rank"][0] == "4"
    assert table["error of its branch"].str.endswith("%").all()
    shares = table["x_n explains"][table["x_n explains"] != ""].str.removesuffix(" %").astype(float)
    assert len(shares) == 64 and shares.between(0, 100).all() and (shares == 100).any()
    assert list(end_table(run)["model"])[:2] == ["base model", "as trained"]


def test_the_heat_map_is_the_difference_of_the_merged_weights_norms(real_runs):
    found, note = norm_differences(read_run(real_runs["lora"]), read_run(real_runs["reslora_is"]))
    assert note == "" and len(found) == 88
    lora, other = (PlainLoRA.load(real_runs[name]).blocks for name in ("lora", "reslora_is"))
    for name in list(found)[::17]:
        expected = float(other[name].delta_weight().norm()) - float(lora[name].delta_weight().norm())
        assert found[name] == pytest.approx(expected, abs=1e-4)


def test_what_a_heat_map_lacks_is_told(runs, made_up_pair):
    for path, said in ((made_up_pair[0], "older version"), (made_up_pair[1], "older version")):
        report = json.loads((path / "merge_report.json").read_text())
        for block in report["blocks"].values():
            block.pop("norm")
        (path / "merge_report.json").write_text(json.dumps(report))
        assert said in norm_differences(read_run(made_up_pair[0]), read_run(made_up_pair[1]))[1]
    (made_up_pair[0] / "merge_report.json").unlink()
    assert "no merge report yet" in norm_differences(read_run(made_up_pair[0]), read_run(made_up_pair[1]))[1]


def test_drawings_take_the_pages_colour_and_have_a_text(runs):
    plan = drawings.link_plan(runs["reslora_is"])
    heat, note = drawings.heat_map(("lora", runs["lora"]), ("reslora_is", runs["reslora_is"]))
    assert note == ""
    for drawing in (plan, heat):
        assert 'role="img" aria-label="' in drawing and "currentColor" in drawing
        assert "<script" not in drawing and not re.search(r'(href|src)="(?!#|data:image)', drawing)
    assert "8 with a residual path" in plan and "larger in 20 of 20 blocks" in heat


def test_names_in_a_link_plan_are_drawn_as_text(made_up):
    settings = json.loads((made_up / "run.json").read_text())
    for link in settings["link_plan"]:
        link["chain"] = link["chain"].replace("to_q", "<script>alert(1)</script>$\\frac$")
        link["name"] = link["name"].replace("to_q", "<script>alert(1)</script>$\\frac$")
    settings["method"] = '"><script>alert(2)</script>'
    (made_up / "run.json").write_text(json.dumps(settings))
    drawing = drawings.link_plan(read_run(made_up))
    assert "<script" not in drawing and "&lt;script&gt;" in drawing


@pytest.mark.parametrize("plan", [None, 3, [], [1, {}, {"name": "a", "chain": "b", "predecessors": 3}]])
def test_a_broken_link_plan_draws_nothing(made_up, plan):
    settings = json.loads((made_up / "run.json").read_text())
    (made_up / "run.json").write_text(json.dumps({**settings, "link_plan": plan}))
    run = read_run(made_up)
    assert drawings.link_plan(run) == "" and plan_summary(run) == "run.json holds no link plan."


def test_loras_before_and_on_the_way_are_told_and_nothing_that_is_none(tmp_path):
    start = {"file": "theirs/rex.safetensors", "blocks": {"a": {}, "b": {}}, "drift": 0.028}
    (tmp_path / "run.json").write_text(json.dumps({"init_lora": start}))
    for step, name in (
        (200, "pytorch_lora_weights.safetensors"),
        (400, "pytorch_lora_weights.safetensors"),
        (600, "x"),
    ):
        folder = tmp_path / "loras" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / name).write_text("a LoRA")
    said = lora_summary(read_run(tmp_path))
    assert said == (
        "Started from rex.safetensors: 2 blocks; at step 0 it was off by 2.8% of what that LoRA changes. "
        "LoRAs merged on the way, in loras/: after step 200, 400."
    )
    broken: object
    for broken in (None, [], {"file": 1}, {"file": "a", "blocks": 2}):
        (tmp_path / "run.json").write_text(json.dumps({"init_lora": broken}))
        assert lora_summary(read_run(tmp_path)).startswith("LoRAs merged")


def test_two_drawings_are_never_made_at_the_same_time():
    inside: list[int] = []

    @drawings.alone
    def draw(number):
        inside.append(number)
        time.sleep(0.01)
        return inside.pop() == number and not inside

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(draw, range(8)))
