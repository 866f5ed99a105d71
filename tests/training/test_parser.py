"""The one parser of all scripts: whole flag names, config files, tables of run.json."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from reslora_sd.training.options import check_choices, option, switch
from reslora_sd.training.parser import SettingsParser, flat


@dataclass(frozen=True)
class Work:
    """Settings of every kind."""

    precision: Literal["no", "fp16"] | None = option(None, "Half precision.")
    report_to: str = option("none", "Trackers.")
    steps: int = option(100, "Steps.")
    rate: float = option(1e-3, "Rate.")
    crop: bool = option(False, "Crop.")
    pin: bool = option(True, "Pin.")
    cache_latents: bool | None = switch("Cache.")

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class Lists:
    """Settings of several values."""

    prompts: list[str] | None = option(None, "Prompts.")
    seeds: list[int] = option([1, 2], "Seeds.")
    methods: list[Literal["lora", "full"]] = option(["lora"], "Methods.")
    rates_for: list[list[str]] = option([], "Rates.", action="append", metavar=("METHOD", "RATE"))


@pytest.fixture
def parser():
    return SettingsParser([Work, Lists], "Works.")


@pytest.fixture
def parse(parser, tmp_path):
    """Settings of a config file's text and of words after it."""

    def run(text, *words, suffix=".yaml", encoding="utf-8"):
        path = tmp_path / f"run{suffix}"
        path.write_text(text, encoding=encoding)
        work, lists = parser.parse(["--config", str(path), *words])
        return {**vars(work), **vars(lists)}

    return run


def test_left_out_flags_have_their_defaults(parser):
    assert parser.parse([]) == (Work(), Lists())


@pytest.mark.parametrize(
    "words",
    [["--step", "3"], ["--prec", "no"], ["--cache"], ["--conf", "a.yaml"], ["--no-cache"], ["--nothing"], ["word"]],
)
def test_abbreviations_and_what_is_no_flag_are_refused(parser, words, capsys):
    with pytest.raises(SystemExit):
        parser.parse(words)
    assert f"unrecognized arguments: {' '.join(words)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--steps", "3"], "steps", 3),
        (["--steps=3"], "steps", 3),
        (["--report-to", "wandb"], "report_to", "wandb"),
        (["--crop"], "crop", True),
        (["--crop", "false"], "crop", False),
        (["--no_pin"], "pin", False),
        (["--cache_latents"], "cache_latents", True),
        (["--cache_latents", "false"], "cache_latents", False),
        (["--no-cache_latents"], "cache_latents", False),
        (["--no_cache_latents"], "cache_latents", False),
        (["--no-cache-latents"], "cache_latents", False),
        (["--prompts", "a b", "c"], "prompts", ["a b", "c"]),
        (["--methods", "full", "lora"], "methods", ["full", "lora"]),
        (["--rates_for", "a", "1", "2", "--rates_for", "b", "3"], "rates_for", [["a", "1", "2"], ["b", "3"]]),
    ],
)
def test_flags_set_their_fields_and_no_other(parser, words, name, value):
    found, defaults = flat(*parser.parse(words)), flat(Work(), Lists())
    assert found == {**defaults, name: value}
    assert parser.given(words) == {name: value}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("precision: no", "precision", "no"),
        ("report_to: no", "report_to", "no"),
        ("report_to: off", "report_to", "off"),
        ("prompts: [yes, no]", "prompts", ["yes", "no"]),
        ("prompts: one", "prompts", ["one"]),
        ("prompts: []", "prompts", []),
        ("cache_latents: false", "cache_latents", False),
        ("cache_latents: 'false'", "cache_latents", False),
        ("cache_latents: 'True'", "cache_latents", True),
        ("cache_latents: null", "cache_latents", None),
        ("crop: yes", "crop", True),
        ("pin: off", "pin", False),
        ("steps: null", "steps", 100),
        ("steps: '7'", "steps", 7),
        ("rate: 1", "rate", 1.0),
        ("rate: 5e-4", "rate", 5e-4),  # a text for YAML 1.1
        ("report_to: 7", "report_to", "7"),
        ("seeds: 5", "seeds", [5]),
        ("seeds: [5, 6]", "seeds", [5, 6]),
        ("methods: [full]", "methods", ["full"]),
        (
            "rates_for: [[adalora, 2e-3, 0.5], [full, 1e-4]]",
            "rates_for",
            [["adalora", "2e-3", "0.5"], ["full", "1e-4"]],
        ),
    ],
)
def test_yaml_means_what_it_says(parse, text, name, value):
    found = parse(text)
    assert found == {**flat(Work(), Lists()), name: value}
    assert repr(found[name]) == repr(value)  # 1 is no 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 2.5}, "steps: 2.5. It must be a whole number"),
        ({"steps": True}, "steps: True. It must be a whole number"),
        ({"steps": [1]}, r"steps: \[1\]. It must be a whole number"),
        ({"rate": "fast"}, "rate: 'fast'. It must be a number"),
        ({"crop": "yes"}, "crop: 'yes'. It must be true or false"),  # JSON has truth values of its own
        ({"crop": 1}, "crop: 1. It must be true or false"),
        ({"precision": "bf16"}, "precision: 'bf16'. It must be one of no, fp16"),
        ({"precision": False}, "precision: False. It must be one of no, fp16"),
        ({"report_to": False}, "report_to: False. It must be text"),
        ({"report_to": ["a"]}, r"report_to: \['a'\]. It must be text"),
        ({"seeds": [1, 2.5]}, r"seeds: \[1, 2.5\]. It must be a list of a whole number"),
        ({"methods": ["lora", "dora"]}, "'dora'.*must be one of lora, full"),
        ({"stesp": 3}, "'stesp', which is no flag"),
        ({"config": "b.json"}, "'config', which is no flag"),
        ({"help": True}, "'help', which is no flag"),
        ([1], "holds no table"),
        ({}, None),
    ],
)
def test_json_is_checked_by_the_fields_types(parser, parse, values, message):
    if message is None:
        assert parse(json.dumps(values), suffix=".json") == flat(Work(), Lists())
        return
    with pytest.raises(ValueError, match=message):
        parse(json.dumps(values), suffix=".json")


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("{", ".json", "as JSON"),
        ("a: [", ".yaml", "as YAML"),
        ("7: 8", ".yaml", "no table"),
        ("", ".yaml", "no table"),
        ('{"steps": 1, "steps": 2}', ".json", "it has 'steps' twice. Leave one"),
        ("steps: 1\nsteps: 2", ".yaml", "it has 'steps' twice. Leave one"),
        ("&a {b: *a}", ".yaml", "as YAML"),
    ],
)
def test_a_broken_file_is_told(parse, text, suffix, message):
    with pytest.raises(ValueError, match=message):
        parse(text, suffix=suffix)


def test_a_file_that_is_missing_or_no_text_is_told(parser, tmp_path):
    with pytest.raises(ValueError, match=r"none\.json, which isn't there"):
        parser.parse(["--config", str(tmp_path / "none.json")])
    (tmp_path / "run.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match=r"run\.yaml can't be read as YAML: it is no UTF-8 text: line 1 has"):
        parser.parse([f"--config={tmp_path / 'run.yaml'}"])


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_windows_byte_order_mark_is_no_part_of_a_name(parse, suffix):
    assert parse('{"steps": 7}', suffix=suffix, encoding="utf-8-sig")["steps"] == 7


def test_the_command_line_wins(parse):
    found = parse(
        "{steps: 7, rate: 0.5, crop: true, cache_latents: true, prompts: [a], precision: fp16}",
        *"--steps 8 --crop false --no-cache_latents --prompts b c".split(),
    )
    assert (found["steps"], found["rate"], found["crop"], found["cache_latents"]) == (8, 0.5, False, False)
    assert (found["prompts"], found["precision"]) == (["b", "c"], "fp16")


def test_what_is_given_is_told_from_defaults_in_both_places(parser, tmp_path):
    (tmp_path / "run.yaml").write_text("{steps: 100, rate: 2, precision: null}")
    words = ["--config", str(tmp_path / "run.yaml"), "--rate", "3", "--crop", "false"]
    assert parser.given(words) == {"steps": 100, "rate": 3.0, "crop": False}


def test_words_for_another_script_are_handed_on_from_both_places(parser, tmp_path):
    (tmp_path / "run.yaml").write_text("{steps: 7, rank: 8, fused: true, targets: [q, v], prefix: -x, left_out: null}")
    words = ["--config", str(tmp_path / "run.yaml"), "--seeds", "3", "--rank", "4", "--bf16"]
    (work, lists), rest = parser.parse_known(words)
    assert (work.steps, lists.seeds) == (7, [3])
    assert rest == ["--rank=8", "--fused=true", "--targets", "q", "v", "--prefix=-x", "--rank", "4", "--bf16"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--cache_latents", "false", "--precision", "no"],
        ["--cache_latents", "--crop", "--no_pin", "--steps", "1", "--rate", "1e-9"],
        ["--prompts=-a", "--seeds", "4", "--methods", "full", "--rates_for", "full", "1"],
        ["--report_to", "null"],
    ],
)
def test_a_written_table_parses_back_to_the_same_settings(parser, words):
    settings = parser.parse(words)
    assert parser.from_values(json.loads(json.dumps(flat(*settings))), "run.json") == settings


def test_a_parser_forgets_what_it_has_read(parser, parse):
    parse("{steps: 7, prompts: [a], crop: true}")
    parser.from_values({"rate": 0.5}, "run.json")
    assert parser.parse([]) == (Work(), Lists())


def test_tables_name_their_source(parser):
    with pytest.raises(ValueError, match=r"^run\.json has steps: 'many'\. It must be a whole number\.$"):
        parser.from_values({"steps": "many"}, "run.json")


def test_help_has_a_line_a_field_and_defaults(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--steps STEPS Steps. (default: 100)" in shown
    assert "{lora,full} [{lora,full} ...] Methods. (default: ['lora'])" in shown
    assert "Prompts. --" in shown and "None" not in shown  # a default of nothing says nothing
