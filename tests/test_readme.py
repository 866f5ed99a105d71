"""The documentation: its code runs, its commands parse, its flags and files exist, its figures agree."""

import dataclasses
import functools
import re
import shlex
from pathlib import Path

import pytest
from transformers import TrainingArguments

from reslora_sd.runs import names
from tests.commands import CONSOLE, commands_in, parse, parser_of
from tests.scripts import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
CARD = ROOT / "reslora_sd" / "assets" / "tiny-sd" / "README.md"
STYLES_CARD = ROOT / "reslora_sd" / "assets" / "styles" / "README.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", CARD, STYLES_CARD, *PAGES]
COMMANDS = [command for document in DOCUMENTS for command in commands_in(document)]
PICTURES, NLG, NLU, COMPARE, COMPARE_TEXT, PAGE, CONVERT, DATA = CONSOLE.values()
INSPECT, INSPECT_DATA = f"{CONVERT} inspect", f"{DATA} inspect"


def named(document):
    return str(document.relative_to(ROOT))


def words_here(command):
    """Its arguments without what they ask of the machine: DeepSpeed's settings, a GPU's half precision."""
    words = list(command.words)
    if command.program in (NLG, NLU, COMPARE_TEXT):
        words = shlex.split(re.sub(r"--deepspeed \S+|--bf16|--use_cpu", "", shlex.join(words)))
    return [*words, "--use_cpu"] if command.program in (NLG, NLU) else words


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert (tmp_path / "cat.png").is_file() and (tmp_path / "my_lora" / "pytorch_lora_weights.safetensors").is_file()
    assert "88 blocks, 64 with a residual path" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands_parse(command):
    settings, rest = parse(command.program, words_here(command))
    if command.program in (COMPARE, COMPARE_TEXT):  # they hand on what they don't know
        trains = PICTURES if command.program == COMPARE else NLG if settings["task"] == "svamp" else NLU
        _, rest = parse(trains, [*rest, *([] if trains == PICTURES else ["--use_cpu"])])
    if command.program == CONVERT:
        assert len(rest) == (1 if "inspect" in command.words else 2)
        rest = [word for word in rest if word.startswith("-")]
    if command.program == DATA:
        assert len(rest) == 1 and command.words[0] == "inspect"
        rest = rest[1:]
    assert rest == []


@pytest.mark.parametrize(
    ("program", "count"),
    [(PICTURES, 8), (NLG, 2), (NLU, 5), (COMPARE, 1), (COMPARE_TEXT, 5), (PAGE, 5), (CONVERT, 7), (DATA, 1)],
)
def test_no_command_is_overlooked(program, count):
    assert sum(command.program == program for command in COMMANDS) == count


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.program in (NLG, NLU)], ids=str)
def test_commands_of_the_text_scripts_train_what_the_text_says(command):
    settings, _ = parse(command.program, words_here(command))
    others = {"mnli": ("full",), "rte": ("lora", "full")}  # where RTE starts, and what learns it without
    assert settings["method"].startswith("reslora") or settings["method"] in others[settings["task"]]


@pytest.mark.parametrize(("task", "steps"), [("mrpc", 200), ("cola", 1200), ("rte", 150)])
def test_comparisons_on_glue_are_those_of_the_tables(task, steps):
    [command] = [one for one in COMMANDS if one.program == COMPARE_TEXT and task in one.words]
    settings, _ = parse(command.program, command.words)
    assert len(settings["methods"]) == 7 and settings["max_steps"] == steps
    own = {method: rates for method, *rates in settings["rates_for"]}
    assert all(len(own.get(method, settings["learning_rates"])) >= 3 for method in settings["methods"])


def test_the_comparison_on_svamp_is_that_of_the_table():
    measured = [one for one in COMMANDS if one.program == COMPARE_TEXT and "--max_eval_samples" in one.words]
    settings, rest = parse(COMPARE_TEXT, measured[0].words)
    own, _ = parse(NLG, [word for word in rest if word != "--bf16"])
    assert len(measured) == 1 and len(settings["learning_rates"]) == 5 and own["max_eval_samples"] == 50


# Flags


@functools.cache
def flags_of(program):
    """Flags by name with their default; those of transformers' TrainingArguments aside."""
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)} if program in (NLG, NLU) else set()
    actions = [action for action in parser_of(program)._actions if action.dest not in {"help", *theirs}]
    return {
        option.replace("-", "_"): action.default
        for action in actions
        for option in action.option_strings
        if option.startswith("--")
    }


def documented(heading):
    """Flags of the tables below a heading of docs/flags.md: the text of their default, by name."""
    text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    level = len(heading) - len(heading.lstrip("#"))
    section = re.search(rf"^{heading}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    rows = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \| [^|]+ \|$", section.group(1), re.MULTILINE)
    return {flag.replace("-", "_"): default for cell, default in rows for flag in re.findall(r"`(--[\w-]+)`", cell)}


SECTIONS = [
    ("## Pictures", (PICTURES,)),
    ("## Text scripts", (NLG, NLU)),
    ("### compare_methods.py", (COMPARE,)),
    ("### compare_text_methods.py", (COMPARE_TEXT,)),
    ("## Converting files", (CONVERT, INSPECT)),
    ("## Looking at pictures", (INSPECT_DATA,)),
    ("## The page", (PAGE,)),
]


@pytest.mark.parametrize(("heading", "programs"), SECTIONS)
def test_flags_are_documented_and_exist(heading, programs):
    known = {flag for program in programs for flag in flags_of(program)}
    if PAGE not in programs:
        known.add("__config")
    found = set(documented(heading))
    aliases = {flag for flag in known if flag.startswith("__no_")}  # written once, with its opposite
    assert found - known == set() and known - aliases - found == set()


def says(text, value):
    """Whether a table's cell has a default: each of several words, or a number in any spelling."""
    if isinstance(value, list | tuple):
        return all(says(text, one) for one in value)
    if isinstance(value, str | Path):
        return re.search(rf"(?<![\w.-]){re.escape(str(value))}(?![\w.-])", text) is not None
    return value in {float(number) for number in re.findall(r"(?<![\w.])-?\d[\d.]*(?:e-?\d+)?(?![\w])", text)}


def is_set(flag, value):
    return value not in (None, "", []) and not isinstance(value, bool) and flag != "__pretrained_model_name_or_path"


@pytest.mark.parametrize(("heading", "programs"), SECTIONS)
def test_documented_defaults_are_the_programs_own(heading, programs):
    written = documented(heading)
    for program in programs:
        defaults = flags_of(program)
        wrong = {
            flag: value for flag, value in defaults.items() if is_set(flag, value) and not says(written[flag], value)
        }
        assert wrong == {}


@pytest.mark.parametrize("model", [(), ("--pretrained_model_name_or_path", "other/model")], ids=["embedded", "other"])
def test_documented_defaults_for_own_pictures_are_the_programs_own(model):
    settings, _ = parse(PICTURES, [*model, "--train_data_dir", "pictures"])
    written = documented("## Pictures")
    given = {"train_data_dir", "dataset_name"}
    defaults = {f"__{name}": value for name, value in settings.items() if name not in given and f"__{name}" in written}
    wrong = {flag: value for flag, value in defaults.items() if is_set(flag, value) and not says(written[flag], value)}
    assert wrong == {} and len(defaults) > 50


@pytest.mark.parametrize("program", [PICTURES, NLG, NLU])
def test_scripts_take_a_config_file(program):
    assert "__config" in flags_of(program)


def test_text_scripts_change_the_defaults_that_the_text_says():
    text = " ".join((ROOT / "docs" / "flags.md").read_text(encoding="utf-8").split())
    sentence = (
        "Unless given, `--max_steps` is {max_steps} (NLU: {nlu_max_steps}), `--per_device_train_batch_size` "
        "{per_device_train_batch_size} (NLU: {nlu_per_device_train_batch_size}), `--learning_rate` 2e-3"
    )
    settings, _ = parse(NLG, ["--use_cpu"])
    nlu, _ = parse(NLU, ["--use_cpu"])
    assert sentence.format(**settings, **{f"nlu_{name}": value for name, value in nlu.items()}) in text
    assert settings["learning_rate"] == nlu["learning_rate"] == 2e-3 and settings["lr_scheduler_type"] == "constant"


def test_flags_in_the_text_exist():
    known = {flag for _, programs in SECTIONS for program in programs for flag in flags_of(program)}
    known |= {flag for program in {one.program for one in COMMANDS} for flag in flags_of(program)}
    known |= {f"__{field.name}" for field in dataclasses.fields(TrainingArguments)}
    of_others = "--help --config --num_processes --nproc_per_node --num_cpu_threads_per_process --no-deps --quiet"
    known |= {flag.replace("-", "_") for flag in of_others.split()}
    wrong = {"__num_train_epoch"}  # the example of what is no flag
    for document in DOCUMENTS:
        found = re.findall(r"(?<![\w-])--[a-z][\w-]*", document.read_text(encoding="utf-8"))
        assert {flag.replace("-", "_") for flag in found} - known - wrong == set(), named(document)


# Links, files, figures


def anchors_of(document):
    """GitHub's names of a document's headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(document):
    """Its relative links, pictures among them: file and heading."""
    found = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    return [target.partition("#")[::2] for target in found if "://" not in target]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document):
    for target, heading in links_of(document):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), target
        assert not heading or heading in anchors_of(path), f"{target}#{heading}"


def test_the_readme_links_every_page():
    linked = {(ROOT / target).resolve() for target, _ in links_of(ROOT / "README.md")}
    assert PAGES and set(PAGES) <= linked


def test_the_page_on_run_folders_names_every_file():
    text = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    constants = {name: value for name, value in vars(names).items() if name.endswith(("_FILE", "_FILES", "_FOLDER"))}
    files = [one for value in constants.values() for one in ([value] if isinstance(value, str) else value)]
    assert len(files) > 12 and [file for file in files if f"`{file}" not in text] == []


def test_every_picture_is_shown():
    shown = {(document.parent / target).resolve() for document in DOCUMENTS for target, _ in links_of(document)}
    assert set((ROOT / "docs").glob("*.png")) <= shown


def test_the_map_of_the_code_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [
        re.findall(r"`([\w/.]+(?:\.py|/))`", row) for row in re.findall(r"^\| [^|]+ \| (.*) \|$", text, re.MULTILINE)
    ]
    for row in rows:  # a name without a folder lies in one that its row names
        folders = [ROOT / name if name.endswith("/") else (ROOT / name).parent for name in row]
        assert all(any((folder / name).exists() for folder in (ROOT, *folders)) for name in row), row
    assert sum(map(len, rows)) > 30


def test_figures_of_the_readme_are_those_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = README.partition("## Results")[2].partition("\n## ")[0]
    figures = re.findall(r"\b\d\.\d{2,}\b", section)
    assert len(figures) > 50
    assert [figure for figure in figures if not re.search(rf"\b{re.escape(figure)}\b", results)] == []


def test_console_commands_of_the_text_exist():
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert set(re.findall(r"\breslora-(?:train|compare|convert|data|page)[\w-]*", text)) == set(CONSOLE)
