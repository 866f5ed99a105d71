"""Every flag of `--help` by its effect: the table is in `flags/`, a file for each group."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from reslora_sd.diffusion.arguments import make_parser
from tests.conftest import make_picture_folder, save_tiny_pipeline
from tests.diffusion.flags import data, method, model, optimizer, output, training, validation  # noqa: F401 - each enters its rows
from tests.diffusion.flags.seen import Runs
from tests.diffusion.flags.table import TABLE, Row

MAKERS = {
    "@model": save_tiny_pipeline,
    "@pictures": make_picture_folder,
    "@wide": data.make_wide,
    "@data_set": data.make_data_set,
    "@hub_cache": model.make_hub_cache,
    "@config": output.make_config,
}
ROWS = {flag: row for flag, row in TABLE.items() if isinstance(row, Row)}
ELSEWHERE = {flag: test for flag, test in TABLE.items() if isinstance(test, str)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("flags"), MAKERS)


def test_the_table_has_every_flag_and_no_other():
    flags = {action.option_strings[0].removeprefix("--") for action in make_parser()._actions}
    assert TABLE.keys() == flags - {"-h"}


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks.*:UserWarning")  # of diffusers
@pytest.mark.parametrize("flag", ROWS)
def test_a_flag_does_what_its_row_says(runs, flag):
    row = ROWS[flag]
    assert f"--{flag}" in row.words
    it, plain = runs(row.words, row.whole, row.setup), runs(row.without, row.whole, row.setup)
    row.check(it, plain)
    if not row.changes_nothing:
        with pytest.raises(AssertionError):
            row.check(plain, plain)


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_a_test_elsewhere_is_there_and_uses_the_flag(flag):
    file, _, name = ELSEWHERE[flag].partition("::")
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    (test,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert f"--{flag}" in {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
