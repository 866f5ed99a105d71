"""After training a text model: the rows that merging is measured on."""

from reslora_sd.text.finish import calibration_rows
from reslora_sd.text.methods import attach
from reslora_sd.text.settings import TextMethod
from tests.texts import small_bert


def test_short_rows_are_calibrated_on_more_of_them():
    attached = attach(small_bert(), TextMethod(method="reslora_is"), 1, 0, ["classifier"])
    rows = [{"input_ids": [3] * 4}] * 1000
    assert attached.adapter is not None
    wide = next(iter(attached.adapter.blocks.values())).lora_A.shape[1]
    assert len(calibration_rows(attached, rows, None)) == max(256, 32 * wide // 4) < 1000
    assert len(calibration_rows(attached, [{"input_ids": [3] * 99}] * 1000, None)) == 256
    assert len(calibration_rows(attached, rows, 7)) == 7
    assert not calibration_rows(attach(small_bert(), TextMethod(method="loha"), 1, 0, ["classifier"]), rows, 7)
