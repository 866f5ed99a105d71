import copy
import pickle
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import reslora_sd
from reslora_sd import ResLoRAAdapter, ResLoRAAttnProcessor, ResLoRAConfig, add_reslora, load_reslora
from reslora_sd.adapter.training_form import write_training_form
from reslora_sd.config import RESIDUALS
from tests.toys import TARGETS, toy
from tests.unets import SMALL, give_maps, inputs_for, move_away_from_zero, small_unet


def output(unet, seed=1):
    with torch.no_grad():
        return unet.eval()(**inputs_for(unet, seed=seed)).sample


@pytest.mark.parametrize("residual", RESIDUALS)
def test_a_new_adapter_changes_nothing_and_removing_it_leaves_nothing(residual):
    unet = small_unet()
    before, weights = output(unet), copy.deepcopy(unet.state_dict())
    processors = {name: type(processor) for name, processor in unet.attn_processors.items()}
    trainable = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    adapter = give_maps(add_reslora(unet, ResLoRAConfig(residual=residual, r=4)))
    assert torch.equal(output(unet), before)
    move_away_from_zero(adapter)
    assert not torch.equal(output(unet), before)
    with adapter.disabled():
        assert torch.equal(output(unet), before)
    adapter.remove()
    adapter.remove()
    assert torch.equal(output(unet), before)
    assert {name: type(processor) for name, processor in unet.attn_processors.items()} == processors
    assert {name: parameter.requires_grad for name, parameter in unet.named_parameters()} == trainable
    assert unet.state_dict().keys() == weights.keys()
    assert not unet._forward_pre_hooks and not unet._forward_hooks


@pytest.mark.parametrize("residual", RESIDUALS)
def test_only_blocks_train_and_each_parameter_has_one_name(residual):
    unet = small_unet()
    base = set(unet.state_dict())
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4, pre_num=None))
    trainable = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert trainable == set(unet.state_dict()) - base
    assert len(trainable) == 2 * len(adapter.blocks) == len(list(adapter.parameters()))
    assert all(name.rsplit(".", 1)[-1] in ("lora_A", "lora_B") for name in trainable)


def test_every_residual_starts_from_the_same_blocks():
    states = []
    for residual in RESIDUALS:
        unet = small_unet()
        torch.manual_seed(7)
        states.append(add_reslora(unet, ResLoRAConfig(residual=residual, r=4)).state_dict())
    first, *others = states
    for state in others:
        assert state.keys() == first.keys() and all(torch.equal(state[name], first[name]) for name in first)


@pytest.mark.parametrize("make", [small_unet, toy])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda adapter: pickle.loads(pickle.dumps(adapter))])
def test_a_copied_adapter_is_taken_out_of_its_own_model(make, way):
    model = make()
    targets = ResLoRAConfig.target_modules if make is small_unet else TARGETS
    adapter = add_reslora(model, ResLoRAConfig(residual="middle", r=4, target_modules=targets))
    names = set(model.state_dict())
    twin = way(adapter)
    twin.remove()
    assert set(twin.model.state_dict()) == set(make().state_dict())
    assert not twin.model._forward_pre_hooks and not twin.model._forward_hooks
    assert set(model.state_dict()) == names and model._forward_pre_hooks and model._forward_hooks
    adapter.remove()
    assert set(model.state_dict()) == set(make().state_dict()) and not model._forward_hooks


def test_removing_twice_leaves_what_was_done_in_between():
    unet = small_unet()
    adapter = add_reslora(unet, ResLoRAConfig(r=4))
    adapter.remove()
    unet.requires_grad_(False)
    second = add_reslora(unet, ResLoRAConfig(r=4))
    adapter.remove()
    assert {parameter.requires_grad for parameter in second.parameters()} == {True}
    assert all(isinstance(processor, ResLoRAAttnProcessor) for processor in unet.attn_processors.values())
    second.remove()
    assert not any(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize("residual", RESIDUALS)
def test_base_weights_stay_bit_identical_through_training(residual):
    unet = small_unet()
    before = copy.deepcopy(unet.state_dict())
    adapter = give_maps(add_reslora(unet, ResLoRAConfig(residual=residual, r=4)))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for _ in range(3):
        unet.train()(**inputs_for(unet)).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_save_and_load_give_the_same_model(residual, tmp_path):
    unet = small_unet()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4, lora_alpha=6))
    move_away_from_zero(adapter)
    adapter.save(tmp_path / "a.safetensors")
    twin = small_unet()
    loaded = load_reslora(twin, tmp_path / "a.safetensors")
    assert loaded.config == adapter.config
    assert torch.equal(output(twin), output(unet))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_adapter_of_another_model_is_refused_and_changes_nothing(tmp_path):
    add_reslora(small_unet(), ResLoRAConfig(r=4)).save(tmp_path / "a.safetensors")
    wider = small_unet({**SMALL, "cross_attention_dim": 40})
    longer = small_unet({**SMALL, "layers_per_block": 1})
    for unet in (wider, longer):
        before = output(unet)
        with pytest.raises(ValueError, match="belongs to another model"):
            load_reslora(unet, tmp_path / "a.safetensors")
        assert torch.equal(output(unet), before)
        assert not any(isinstance(p, ResLoRAAttnProcessor) for p in unet.attn_processors.values())


def test_files_that_are_no_adapter_are_told(tmp_path):
    unet = small_unet()
    path = tmp_path / "a.safetensors"
    add_reslora(small_unet(), ResLoRAConfig(r=4)).save(path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        load_reslora(unet, cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="no ResLoRA training form"):
        load_reslora(unet, foreign)
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        load_reslora(unet, tmp_path / "missing.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path, bad):
    path = tmp_path / "a.safetensors"
    adapter = add_reslora(small_unet(), ResLoRAConfig(r=4))
    name = next(iter(adapter.blocks))
    with torch.no_grad():
        adapter.blocks[name].lora_B[1, 2] = bad
    adapter.save(path)
    unet = small_unet()
    with pytest.raises(ValueError, match=rf"a\.safetensors holds NaN or infinity, in .*{name}\.B"):
        load_reslora(unet, path)
    assert not unet._forward_hooks


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[" * 100_000, "not JSON"),
        ("[5]", "does not know"),
        ('{"r": 60000}', r"say rank 60000, but .* is torch\.float32 of shape \(4, "),
        ('{"r": 4, "target_modules": "("}', "no regular expression"),
        ('{"r": 4, "target_modules": ["nothing"]}', "match"),
    ],
)
def test_damaged_settings_are_told_with_the_files_name(tmp_path, settings, words):
    path = tmp_path / "a.safetensors"
    add_reslora(small_unet(), ResLoRAConfig(r=4)).save(path)
    tensors = load_file(path)
    save_file(tensors, path, {"reslora_training_form": "1", "config": settings})
    with pytest.raises(ValueError, match=rf"a\.safetensors .*{words}"):
        load_reslora(small_unet(), path)


@pytest.mark.parametrize("make", [small_unet, toy])
@pytest.mark.parametrize("failing", ["register_forward_hook", "load_state_dict"])
def test_any_error_while_attaching_leaves_the_model_as_it_was(tmp_path, monkeypatch, make, failing):
    """Also one that is no ValueError, such as memory that runs out."""
    targets = ResLoRAConfig.target_modules if make is small_unet else TARGETS
    add_reslora(make(), ResLoRAConfig(r=4, target_modules=targets)).save(tmp_path / "a.safetensors")
    model = make()
    model.requires_grad_(True)
    names, owner = set(model.state_dict()), ResLoRAAdapter if failing == "load_state_dict" else type(model)
    monkeypatch.setattr(owner, failing, lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        load_reslora(model, tmp_path / "a.safetensors")
    assert set(model.state_dict()) == names and not model._forward_hooks and not model._forward_pre_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(type(module).__name__.startswith("ResLoRA") for module in model.modules())


def test_no_lora_loader_takes_the_training_form(tmp_path, tiny_pipeline_folder):
    """diffusers skips keys that it doesn't know with a log line; this file must fail instead."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    add_reslora(copy.deepcopy(pipeline.unet), ResLoRAConfig(r=4)).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")


def test_a_second_adapter_and_foreign_processors_are_refused():
    unet = small_unet()
    add_reslora(unet, ResLoRAConfig(r=4))
    with pytest.raises(ValueError, match="has a ResLoRA adapter already"):
        add_reslora(unet, ResLoRAConfig(r=4))
    fused = small_unet()
    fused.fuse_qkv_projections()
    with pytest.raises(ValueError, match="FusedAttnProcessor2_0"):
        add_reslora(fused, ResLoRAConfig(r=4))
    with pytest.raises(TypeError, match="Linear"):
        add_reslora(torch.nn.Linear(2, 2), ResLoRAConfig(r=4))


def test_a_unet_with_pefts_lora_is_refused():
    from peft import LoraConfig

    unet = small_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="Remove other adapters"):
        add_reslora(unet, ResLoRAConfig(r=4))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    adapter = add_reslora(small_unet(), ResLoRAConfig(r=4))
    adapter.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    move_away_from_zero(adapter)
    with pytest.raises(OSError, match="disk full"):
        adapter.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_package_gives_its_public_names_and_imports_no_framework():
    assert set(reslora_sd.__all__) == {
        "PlainLoRA",
        "ResLoRAAdapter",
        "ResLoRAAttnProcessor",
        "ResLoRAConfig",
        "ResLoRALinear",
        "add_reslora",
        "collect_statistics",
        "load_reslora",
        "merge",
    }
    heavy = ("diffusers", "transformers", "gradio", "peft")
    code = f"import sys, reslora_sd; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_frozen_paths_are_saved_with_the_adapter_and_a_file_without_them_is_refused(tmp_path):
    adapter = add_reslora(small_unet(), ResLoRAConfig(residual="frozen", r=4))
    move_away_from_zero(adapter)
    maps = {name: value for name, value in adapter.state_dict().items() if name.endswith("lora_M")}
    assert len(maps) == 12  # one for q, k and v together, for both outputs and for q of the text's attention
    adapter.save(tmp_path / "a.safetensors")
    again = load_reslora(small_unet(seed=1), tmp_path / "a.safetensors")
    stored = again.state_dict()
    assert all(torch.equal(stored[name], value) for name, value in maps.items())
    state = {name: value for name, value in adapter.state_dict().items() if not name.endswith("lora_M")}
    write_training_form(tmp_path / "b.safetensors", state, adapter.config)
    with pytest.raises(ValueError, match=r"12 parameters missing, 0 unknown \(missing .*lora_M\)"):
        load_reslora(small_unet(), tmp_path / "b.safetensors")
    name = next(iter(maps))
    write_training_form(tmp_path / "c.safetensors", {**adapter.state_dict(), name: torch.ones(4, 5)}, adapter.config)
    with pytest.raises(ValueError, match=r"c\.safetensors is damaged: .*lora_M is torch.float32 of shape \(4, 5\)"):
        load_reslora(small_unet(), tmp_path / "c.safetensors")
