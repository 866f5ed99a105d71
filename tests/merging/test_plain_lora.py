"""A plain LoRA in the model that it belongs to: fused for good, or acting for a while."""

import copy
import dataclasses

import pytest
import torch

from reslora_sd import PlainLoRA, merge
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.files.storage import load_tensors
from reslora_sd.merging.applied import applied
from tests.merging.adapted import adapted_toy
from tests.toys import TARGETS, ids_for, toy
from tests.unets import SMALL_SDXL, small_unet


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
        "explained": None,
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


class Convolutions(torch.nn.Module):
    """A 1 x 1 one as SD 1.x has before its attention, one that halves the size, and a linear."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.proj_in, self.down = torch.nn.Conv2d(4, 6, 1), torch.nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.out = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.down(self.proj_in(x)).mean((2, 3)))


@pytest.mark.parametrize("kernel_of_b", [(), (1, 1)])
@pytest.mark.parametrize("proj_in", [(), (1, 1)])
def test_convolutions_are_fused_and_act_as_diffusers_would_have_them(kernel_of_b, proj_in):
    torch.manual_seed(1)
    plain = PlainLoRA(
        {
            "proj_in": PlainBlock(
                torch.randn(2, 4, *proj_in), torch.randn(6, 2, *(kernel_of_b if proj_in else ())), 0.5
            ),
            "down": PlainBlock(torch.randn(3, 6, 3, 3), torch.randn(8, 3, *kernel_of_b), 2.0),
            "out": PlainBlock(torch.randn(2, 8), torch.randn(5, 2), 1.0),
        }
    )
    model, fused, x = Convolutions(), Convolutions(), torch.randn(2, 4, 6, 6)
    assert plain.fuse_into(fused) == 0.0
    base = model(x)
    with applied(plain, model):
        torch.testing.assert_close(model(x), fused(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(model(x), base) and not torch.allclose(base, fused(x))
    wrong = PlainLoRA({"down": PlainBlock(torch.randn(3, 6, 1, 1), torch.randn(8, 3, 1, 1), 2.0)})
    with pytest.raises(ValueError, match=r"^down is Conv2d.* in the model, and 8x6x1x1 in this LoRA"):
        wrong.fuse_into(model)


def test_a_lora_of_text_encoders_too_is_never_half_applied():
    block = PlainBlock(torch.ones(1, 8), torch.ones(8, 1), 1.0)
    plain = PlainLoRA({"layers.0.q": block}, text_encoders={"text_encoder": {"text_model.layers.1.k": block}})
    model = toy()
    with pytest.raises(ValueError, match="is also of text_encoder"):
        plain.fuse_into(model)
    with pytest.raises(ValueError, match="is also of text_encoder"), applied(plain, model):
        pass
    alone = plain.by_component()
    assert list(alone) == ["unet", "text_encoder"]
    before = copy.deepcopy(model.state_dict())
    alone["unet"].fuse_into(model)
    alone["text_encoder"].fuse_into(model)  # whose paths have no text_model, as in transformers 5
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layers.0.q.weight", "layers.1.k.weight"}
    assert list(PlainLoRA({}, text_encoders=plain.text_encoders).by_component()) == ["text_encoder"]


@pytest.mark.parametrize(
    ("component", "config", "kohya"),
    [
        ("text_encoder", None, "lora_te_"),
        ("text_encoder", dict(small_unet(SMALL_SDXL).config), "lora_te1_"),
        ("text_encoder_2", None, "lora_te2_"),
    ],
)
def test_the_part_of_a_text_encoder_alone_is_saved_under_its_own_names(tmp_path, component, config, kohya):
    block, path = PlainBlock(torch.ones(1, 8), torch.ones(8, 1), 1.0), "text_model.encoder.layers.1.self_attn.k_proj"
    in_unet = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": block}
    part = PlainLoRA(in_unet, text_encoders={component: {path: block}}).by_component()[component]
    assert part.component == component and not part.text_encoders
    part.save_kohya(tmp_path / "k.safetensors", unet_config=config)
    part.save_diffusers(tmp_path / "d.safetensors", unet_config=config)
    stems = {
        name: {key.split(".lora_")[0].removesuffix(".alpha") for key in load_tensors(tmp_path / name)[0]}
        for name in ("k.safetensors", "d.safetensors")
    }
    assert stems == {"k.safetensors": {kohya + path.replace(".", "_")}, "d.safetensors": {f"{component}.{path}"}}
    for name in stems:
        read = PlainLoRA.load(tmp_path / name).text_encoders[component]
        assert list(read) == [path] and torch.equal(read[path].delta_weight(), block.delta_weight())


def test_a_lora_of_a_transformer_is_not_called_stable_diffusion_and_takes_no_other_models_config(tmp_path):
    block = PlainBlock(torch.ones(1, 8), torch.ones(8, 1), 1.0)
    plain, file = (
        PlainLoRA({"transformer_blocks.0.attn.to_q": block}, component="transformer"),
        tmp_path / "t.safetensors",
    )
    plain.save_diffusers(file)
    metadata = load_tensors(file)[1]
    assert "modelspec.architecture" not in metadata and "ss_base_model_version" not in metadata
    assert metadata["modelspec.implementation"] == "diffusers" and metadata["reslora_merge_approach"] == "none"
    config = {"_class_name": "FluxTransformer2DModel", "num_layers": 19}
    with pytest.raises(ValueError, match=r"unet_config is for LoRAs of U-Nets, .* of a transformer\. Leave it out"):
        plain.save_diffusers(file, unet_config=config)
    for save in ("save_diffusers", "save_kohya"):
        with pytest.raises(
            ValueError, match=r"is of FluxTransformer2DModel and lacks block_out_channels, .*Give unet\."
        ):
            getattr(merged()[2], save)(tmp_path / "u.safetensors", unet_config=config)
