"""Every form of a LoRA in the hands of every tool that can't be installed here: who takes all of it, who nothing."""

import pytest

from tests.files.loras import RESIDUALS, deltas_of, trained
from tests.files.readers import READERS
from tests.files.topologies import FAMILIES, topology


def save(plain, form, folder):
    if form == "kohya":
        return plain.save_kohya(folder / "k.safetensors")
    return plain.save_diffusers(folder)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("family", FAMILIES)
def test_matrix(family, residual, form, reader, tmp_path):
    plain = trained(family, residual)
    path = save(plain, form, tmp_path)
    expected = deltas_of({"unet": plain.blocks})
    taken = READERS[reader](path, topology(family))
    assert not taken.left
    assert taken.deltas.keys() == expected.keys()
    for name, delta in taken.deltas.items():
        assert (delta - expected[name]).norm() <= 1e-6 * expected[name].norm()
