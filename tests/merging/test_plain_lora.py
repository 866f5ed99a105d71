"""A plain LoRA in the model that it belongs to: fused for good, or acting for a while."""

import copy
import dataclasses

import pytest
import torch

from reslora_sd import PlainLoRA, merge
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.merging.applied import applied
from tests.merging.adapted import adapted_toy
from tests.toys import TARGETS, ids_for, toy


def merged(residual="block"):
    model, adapter = adapted_toy(residual)
    return model, adapter, merge(adapter, None if residual == "block" else "none")


def test_fusing_adds_every_blocks_weight():
    _, _, plain = merged()
    model = toy()
    before = copy.deepcopy(model.state_dict())
    assert plain.fuse_into(model) == 0.0
    for name, value in model.state_dict().items():
        site = name.removesuffix(".weight")
        expected = before[name] + plain.blocks[site].delta_weight() if site in plain.blocks else before[name]
        assert torch.equal(value, expected)


def test_fusing_and_acting_for_a_while_give_the_unmerged_output_of_an_exact_merge():
    model, _, plain = merged()
    unmerged, base = model(ids_for(1)), toy().eval()(ids_for(1))
    fused = toy().eval()
    plain.fuse_into(fused)
    torch.testing.assert_close(fused(ids_for(1)), unmerged, rtol=1e-4, atol=1e-4)
    with applied(plain, model):
        torch.testing.assert_close(model(ids_for(1)), unmerged, rtol=1e-4, atol=1e-4)
    with applied(PlainLoRA({}), model):
        assert torch.equal(model(ids_for(1)), base)  # the branches rest
    assert torch.equal(model(ids_for(1)), unmerged)
    assert not any(module._forward_hooks for name, module in model.named_modules() if name)


def test_an_error_inside_takes_the_lora_out_again():
    model, _, plain = merged()
    before = model(ids_for(1))
    with pytest.raises(KeyError), applied(plain, model):
        raise KeyError
    assert torch.equal(model(ids_for(1)), before)


def test_the_rounding_error_of_half_precision_is_told():
    _, _, plain = merged()
    model = toy().bfloat16()
    before = {name: value.float() for name, value in model.state_dict().items()}
    told = plain.fuse_into(model)
    after = {name: value.float() for name, value in model.state_dict().items()}
    exact = {name: before[f"{name}.weight"] + block.delta_weight() for name, block in plain.blocks.items()}
    assert told == pytest.approx(max(float((after[f"{name}.weight"] - one).abs().max()) for name, one in exact.items()))
    assert told > 0


def test_another_model_and_one_with_its_adapter_are_refused_and_stay_as_they_are():
    model, _, plain = merged()
    with pytest.raises(ValueError, match=r"^The model still has its ResLoRA adapter, which would act twice"):
        plain.fuse_into(model)
    with pytest.raises(ValueError, match=r"^The model has no layers\.3\.q\. This LoRA belongs to another model"):
        plain.fuse_into(toy(3))
    narrow, before = toy(), {name: value.clone() for name, value in toy().state_dict().items()}
    narrow.layers[3].o = torch.nn.Linear(7, 8)
    with pytest.raises(ValueError, match=r"^layers\.3\.o is Linear.* in the model, and 8x8 in this LoRA"):
        plain.fuse_into(narrow)
    assert torch.equal(narrow.get_parameter("layers.0.q.weight"), before["layers.0.q.weight"])
    no_linear = toy()
    no_linear.layers[3].o = torch.nn.Bilinear(8, 8, 8)
    with pytest.raises(ValueError, match=r"^layers\.3\.o is Bilinear"):
        plain.linears_of(no_linear)


def test_the_linears_are_found_by_name():
    model = toy()
    linears = merged()[2].linears_of(model)
    assert set(linears) == {f"layers.{i}.{p}" for i in range(4) for p in TARGETS}
    assert all(linear is model.get_submodule(name) for name, linear in linears.items())


def test_the_summary_holds_what_the_reports_say():
    _, adapter, plain = merged("input")
    summary = plain.summary()
    assert summary["approach"] == "none" and set(summary["blocks"]) == set(adapter.blocks)
    name = "layers.1.q"
    assert summary["blocks"][name] == {
        "alpha": None,
        "alphas": [],
        "r": 3,
        "error": None,
        "norm": plain.blocks[name].norm(),
        "input_norm": None,
    }


def test_a_lora_of_others_has_no_settings_and_no_reports():
    plain = PlainLoRA({"q": PlainBlock(torch.ones(1, 2), torch.ones(3, 1), 1.0)})
    assert plain.config is None and plain.approach == "none" and plain.summary() == {"approach": "none", "blocks": {}}


def test_a_plain_lora_and_its_reports_do_not_change():
    _, _, plain = merged()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.approach = "none"
    with pytest.raises(dataclasses.FrozenInstanceError):
        next(iter(plain.reports.values())).r = 1
