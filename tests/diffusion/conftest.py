"""What tests of the U-Net script share: a run of it in this process, on a tiny pipeline and eight pictures."""

from __future__ import annotations

from typing import Any

import pytest

from reslora_sd.diffusion.arguments import parse_settings
from tests.scripts import load_script

SCRIPT = "train_text_to_image_reslora"


@pytest.fixture
def train(tiny_pipeline_folder, picture_folder, tmp_path):
    """Runs the script in this process; gives its run folder.

    Flags come in pairs over the defaults below; a flag with `None` is left out.
    """
    from accelerate.state import AcceleratorState, GradientState

    def run(*argv, output="run", model=tiny_pipeline_folder, data=picture_folder, script=None):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        defaults = {
            "--pretrained_model_name_or_path": model,
            "--train_data_dir": data,
            "--output_dir": tmp_path / output,
            "--train_batch_size": 2,
            "--max_train_steps": 4,
            "--learning_rate": 1e-2,
            "--rank": 4,
            "--calibration_samples": 8,
        }
        words = [word for pair in defaults.items() if pair[0] not in argv and pair[1] is not None for word in pair]
        left_out = {place for place, word in enumerate(argv) if word is None}
        words += [word for place, word in enumerate(argv) if not {place, place + 1} & left_out]
        (script or load_script(SCRIPT)).main(parse_settings([str(word) for word in words]))
        return tmp_path / output

    return run


@pytest.fixture
def train_only(train):
    """As `train`, without what follows the last step."""

    def run(*argv, **places):
        script: Any = load_script(SCRIPT)
        script.finish = script.print_result = lambda *_, **__: None
        return train(*argv, script=script, **places)

    return run
