"""The link plan of models without weights."""

import pytest

from reslora_sd.text.plan import main
from tests.texts import save_small_llama


@pytest.mark.parametrize("method", ["lora", "reslora_is", "reslora_bs", "reslora_ms", "reslora_frozen"])
def test_llama_2_7b_by_appendix_c(capsys, method):
    main(["--model", "llama-2-7b", "--method", method])
    printed = capsys.readouterr().out
    # q and v of 32 layers, A and B of 4096 x 4 each; the model's own size is the published one
    assert "6,738,415,616 parameters, 2,097,152 more train (0.031 %)" in printed
    assert 32 * 2 * 2 * 4096 * 4 == 2_097_152
    if method == "lora":
        assert "64 blocks, 0 with a residual path" in printed
    else:
        assert "64 blocks, 62 with a residual path, 2 that start a chain" in printed
        assert "model.layers.0 -> ... 30 more ... -> model.layers.31" in printed


def test_a_folder_of_ones_own(capsys, tmp_path):
    main(["--model", str(save_small_llama(tmp_path)), "--rank", "2"])
    assert "4 blocks, 2 with a residual path" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="nowhere' can't be loaded"):
        main(["--model", str(tmp_path / "nowhere")])
