"""Every flag of `--help` by its effect: the table is in `flags/`, a file for each group."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslora_sd.diffusion.arguments import make_parser
from tests.conftest import make_picture_folder, save_tiny_pipeline
from tests.diffusion.flags import data, method, model, optimizer, output, training, validation  # noqa: F401 - enter rows
from tests.diffusion.flags.seen import Runs
from tests.diffusion.flags.table import TABLE
from tests.flags import uses

MAKERS = {
    "@model": save_tiny_pipeline,
    "@pictures": make_picture_folder,
    "@wide": data.make_wide,
    "@data_set": data.make_data_set,
    "@hub_cache": model.make_hub_cache,
    "@config": output.make_config,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("flags"), MAKERS)


def test_the_table_has_every_flag_and_no_other():
    assert TABLE.flags == {action.option_strings[0].removeprefix("--") for action in make_parser()._actions} - {"-h"}


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks.*:UserWarning")  # of diffusers
@pytest.mark.parametrize("flag", TABLE.rows)
def test_a_flag_does_what_its_row_says(runs, flag):
    TABLE.rows[flag].hold(runs)


@pytest.mark.parametrize("flag", TABLE.elsewhere)
def test_a_test_elsewhere_is_there_and_uses_the_flag(flag):
    assert uses(TABLE.elsewhere[flag], flag, Path(__file__).parent)
