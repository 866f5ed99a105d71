"""Every form of a LoRA in the hands of tools that can't be installed here: which take it whole, which nothing."""

import math

import pytest
from safetensors.torch import save_file

from reslora_sd.convert.converting import convert
from reslora_sd.convert.settings import Conversion, parse
from tests.files.loras import KINDS, TEXT, as_sd_scripts_writes, expected_of
from tests.files.readers import READERS, a1111_family, forge_family, metadata_of
from tests.files.topologies import FAMILIES, topology

FORMS = ("diffusers", "peft", "kohya", "sai")


ALL = [(family, form, reader) for family in FAMILIES for form in FORMS for reader in READERS]


def is_for(family, form, reader):
    """`sai` is for SDXL's tools; kohya's own know SDXL by no other name, and other models not by this."""
    if form == "kohya":
        return (family, reader) != ("sdxl", "sd-scripts")
    return form == "sai" and (family == "sdxl" or reader in ("A1111", "Forge", "ComfyUI"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "form", "reader"), [cell for cell in ALL if is_for(*cell)])
def test_every_module_is_taken_at_its_strength(family, form, reader, kind, saved):
    expected = expected_of(family, kind)
    for precision in ("float32", "fp16") if kind in ("block", TEXT) else ("float32",):
        taken = READERS[reader](saved(family, kind, form, precision), topology(family))
        assert not taken.left and taken.deltas.keys() == expected.deltas.keys()
        errors = {name: float((taken.deltas[name] - delta).norm()) for name, delta in expected.deltas.items()}
        if precision == "float32":
            assert all(error <= 1e-6 * expected.norms[name] for name, error in errors.items())
        else:
            assert all(error <= 1e-3 * expected.sizes[name] for name, error in errors.items())
            assert math.hypot(*errors.values()) <= 1e-3 * math.hypot(*expected.norms.values())


@pytest.mark.parametrize(("family", "form", "reader"), [cell for cell in ALL if not is_for(*cell)])
def test_no_attention_is_taken_from_a_file_for_others(family, form, reader, saved):
    for kind in ("none", TEXT):
        taken = READERS[reader](saved(family, kind, form), topology(family))
        assert taken.left and not any(".attn" in name for name in taken.deltas)


@pytest.mark.parametrize("form", ["diffusers", "kohya", "sai"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a1111_and_forge_list_a_file_for_the_models_that_it_is_for(family, form, saved):
    metadata = metadata_of(saved(family, "none", form))
    assert a1111_family(metadata) == family and forge_family(metadata) == family


@pytest.mark.parametrize("through", ["diffusers", "peft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_as_sd_scripts_writes_it_comes_back_for_every_tool(family, through, tmp_path):
    theirs, middle, back = tmp_path / "theirs.safetensors", tmp_path / "middle", tmp_path / "back.safetensors"
    save_file(dict(as_sd_scripts_writes(family)[0]), theirs, dict(as_sd_scripts_writes(family)[1]))
    reslora_convert(theirs, middle, "--to", through)
    reslora_convert(middle, back, "--to", "kohya")
    assert a1111_family(metadata_of(back)) == family
    expected = READERS["sd-scripts"](theirs, topology(family))
    assert not expected.left
    for read in READERS.values():
        found = read(back, topology(family))
        assert not found.left and found.deltas.keys() == expected.deltas.keys()
        for name, delta in expected.deltas.items():
            assert (found.deltas[name] - delta).norm() <= 1e-6 * delta.norm()


def reslora_convert(*arguments):
    command = parse([str(argument) for argument in arguments])
    assert isinstance(command, Conversion)
    convert(command)
