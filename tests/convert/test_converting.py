"""LoRA files through reslora-convert: the same LoRA in every form, and changed as the flags say."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from reslora_sd import PlainLoRA
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.convert.__main__ import cli
from reslora_sd.files.reading import read_lora
from tests.lora_files import CLIP, kohya_deltas, kohya_file
from tests.unets import SMALL_SDXL, small_unet

ENCODERS = {"sd1": ["text_encoder"], "sdxl": ["text_encoder", "text_encoder_2"]}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """What sd-scripts saves by default, and for SD 1.5 with convolutions; alpha isn't the rank."""
    folder = tmp_path_factory.mktemp("others")
    for family in ("sd1", "sdxl"):
        tensors = kohya_file(family, convolutions=family == "sd1")
        save_file(tensors, folder / f"{family}.safetensors", {"ss_output_name": "rex", "ss_tag_frequency": "{}"})
    return folder


def assert_same_deltas(one, two, tolerance):
    first, second = kohya_deltas(load_file(one)), kohya_deltas(load_file(two))
    assert first.keys() == second.keys()
    for name, delta in first.items():
        assert second[name].shape == delta.shape
        assert float((second[name] - delta).norm() / delta.norm()) < tolerance, name


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("through", ["diffusers", "peft"])
def test_a_kohya_file_comes_back_from_another_form(run, family, through, others, tmp_path):
    source, middle, back = others / f"{family}.safetensors", tmp_path / "middle", tmp_path / "back.safetensors"
    run(source, middle, "--to", through)
    file = read_lora(middle)
    assert file.form == through and list(file.components) == ["unet", *ENCODERS[family]]
    run(middle, back, "--to", "kohya")
    assert_same_deltas(source, back, 1e-6)
    with safe_open(back, "pt") as opened:
        assert opened.metadata()["ss_output_name"] == "rex" and opened.metadata()["ss_network_alpha"] == "4"


def test_peft_itself_takes_every_models_folder(run, others, tmp_path):
    run(others / "sdxl.safetensors", tmp_path / "p", "--to", "peft")
    config = CLIPTextConfig(**CLIP, num_hidden_layers=12, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    models = {"unet": small_unet(SMALL_SDXL), "text_encoder": CLIPTextModel(config)}
    models["text_encoder_2"] = CLIPTextModelWithProjection(
        CLIPTextConfig(**{**config.to_dict(), "num_hidden_layers": 32})
    )
    for name, model in models.items():
        peft = PeftModel.from_pretrained(model, tmp_path / "p" / name)  # warnings, such as of missing keys, are errors
        loaded = [value for key, value in peft.state_dict().items() if "lora_B" in key]
        assert len(loaded) == len(read_lora(tmp_path / "p").blocks(name)) and all(bool(value.any()) for value in loaded)


def test_sdxl_has_its_original_names_in_both_kohya_forms(run, others, tmp_path):
    run(others / "sdxl.safetensors", tmp_path / "d.safetensors", "--to", "diffusers")
    for form in ("kohya", "sai"):
        [said] = run(tmp_path / "d.safetensors", tmp_path / f"{form}.safetensors", "--to", form)
        assert "192 modules of text_encoder_2" in said
    keys = [load_file(tmp_path / f"{form}.safetensors").keys() for form in ("kohya", "sai")]
    assert keys[0] == keys[1] == load_file(others / "sdxl.safetensors").keys()
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in keys[0]


def test_without_a_form_it_stays_what_it_is(run, others, tmp_path):
    run(others / "sd1.safetensors", tmp_path / "b.safetensors", "--strength", "-0.5", "--precision", "fp16")
    before, after = load_file(others / "sd1.safetensors"), load_file(tmp_path / "b.safetensors")
    assert before.keys() == after.keys() and {value.dtype for key, value in after.items() if "alpha" not in key} == {
        torch.float16
    }
    first, second = kohya_deltas(before), kohya_deltas(after)
    assert all(float((second[name] + 0.5 * first[name]).norm()) < 1e-3 * float(first[name].norm()) for name in first)


def test_a_lower_rank_is_the_best_of_its_size_and_its_cost_is_told(run, tmp_path):
    torch.manual_seed(0)
    sites = [f"down_blocks.0.attentions.{place}.transformer_blocks.0.attn1.to_q" for place in range(2)]
    tensors = {}
    for site, rank in zip(sites, (4, 1), strict=True):
        tensors[f"unet.{site}.lora_A.weight"], tensors[f"unet.{site}.lora_B.weight"] = (
            torch.randn(rank, 6),
            torch.randn(8, rank),
        )
    save_file(tensors, tmp_path / "a.safetensors")
    told = run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--rank", 2)
    before, after = (read_lora(tmp_path / f"{name}.safetensors").blocks() for name in "ab")
    assert [after[site].r for site in sites] == [2, 1]
    torch.testing.assert_close(after[sites[1]].delta_weight(), before[sites[1]].delta_weight())
    best, error = before[sites[0]].cut(2)
    torch.testing.assert_close(after[sites[0]].delta_weight(), best.delta_weight(), rtol=1e-4, atol=1e-5)
    whole = sum(block.norm() ** 2 for block in before.values()) ** 0.5
    assert told[0].startswith(f"Cut to rank 2: {error * before[sites[0]].norm() / whole:.3%} of the change is lost")
    assert f"at most {error:.3%} of a layer's (unet.{sites[0]})" in told[0]
    told = run(tmp_path / "a.safetensors", tmp_path / "c.safetensors", "--rank", 9)
    assert told[0] == "No pair has more than rank 4, so --rank 9 changes nothing."


def test_what_is_there_is_replaced_only_when_asked(run, tmp_path_factory, tmp_path):
    source, site = tmp_path_factory.mktemp("few") / "a.safetensors", "mid_block.attentions.0.proj_in"
    matrices = {"lora_A": torch.ones(2, 6), "lora_B": torch.ones(8, 2)}
    save_file({f"unet.{site}.{name}.weight": matrix for name, matrix in matrices.items()}, source)
    for form, out in (("kohya", "x.safetensors"), ("diffusers", "folder"), ("peft", "peft")):
        target = tmp_path / out
        run(source, target, "--to", form)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=r"is there already.*--overwrite"):
            run(source, target, "--to", form)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        run(source, target, "--to", form, "--overwrite", "--strength", 2)
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(before)
    twice, once = read_lora(tmp_path / "peft").blocks(), read_lora(source).blocks()
    assert all(block.norm() == pytest.approx(2 * once[path].norm()) for path, block in twice.items())


@pytest.mark.parametrize(
    ("out", "form", "words"),
    [
        ("folder", "kohya", "must end in .safetensors"),
        ("folder", "sai", "must end in .safetensors"),
        ("x.safetensors", "peft", "A PEFT adapter is a folder"),
    ],
)
def test_a_name_that_does_not_fit_the_form_is_refused(run, others, tmp_path, out, form, words):
    with pytest.raises(ValueError, match=words):
        run(others / "sd1.safetensors", tmp_path / out, "--to", form)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_a_part_has_no_name_in_the_form(run, tmp_path):
    site = "down_blocks.0.motion_modules.0.to_q"
    tensors = {f"unet.{site}.lora_A.weight": torch.ones(2, 6), f"unet.{site}.lora_B.weight": torch.ones(8, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="motion_modules"):
        run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "sai")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_language_models_adapter_stays_with_peft(run, tmp_path):
    from reslora_sd import PlainLoRA

    block = PlainBlock(torch.ones(2, 6), torch.ones(8, 2), 0.5)
    PlainLoRA({"model.layers.0.self_attn.q_proj": block}).save_peft(tmp_path / "a")
    run(tmp_path / "a", tmp_path / "b", "--to", "peft", "--strength", 2)
    assert read_lora(tmp_path / "b").blocks("model")["model.layers.0.self_attn.q_proj"].scaling == 1.0
    with pytest.raises(ValueError, match="Only --to peft fits"):
        run(tmp_path / "a", tmp_path / "c.safetensors", "--to", "kohya")


def test_it_is_a_command_that_ends_with_one_line(tmp_path, monkeypatch, capsys, others):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    monkeypatch.setattr("sys.argv", ["reslora-convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b")])
    with pytest.raises(SystemExit, match=r"^Error: .*a.safetensors is no complete safetensors file .*Copy or export"):
        cli()
    monkeypatch.setattr("sys.argv", ["x", str(others / "sd1.safetensors"), str(tmp_path / "b"), "--to", "diffusers"])
    cli()
    said = capsys.readouterr().out
    assert said.startswith(str(tmp_path / "b")) and said.endswith("72 modules of text_encoder, float32.\n")


def test_peft_patterns_and_alphas_that_differ_keep_their_strength(run, tmp_path):
    settings = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_k": 1}, "unet.use_rslora": True}
    tensors = {}
    for leaf in ("to_q", "to_k"):
        site = f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.{leaf}"
        tensors[f"{site}.lora_A.weight"], tensors[f"{site}.lora_B.weight"] = torch.ones(4, 6), torch.ones(8, 4)
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    for form, out in (("kohya", "k.safetensors"), ("peft", "p"), ("diffusers", "d")):
        run(tmp_path / "a.safetensors", tmp_path / out, "--to", form)
        blocks = read_lora(tmp_path / out).blocks()
        values = {path.rpartition(".")[2]: float(block.delta_weight()[0, 0]) for path, block in blocks.items()}
        assert values == pytest.approx({"to_q": 4 * 8 / 2, "to_k": 4 * 1 / 2})


def lora_file(folder, components, metadata=None):
    """A diffusers file of one pair for each component; gives its path."""
    paths = {"unet": "mid_block.attentions.0.proj_in"}
    tensors = {}
    for component in components:
        path = paths.get(component, "text_model.encoder.layers.0.mlp.fc1")
        tensors[f"{component}.{path}.lora_A.weight"] = torch.ones(2, 6)
        tensors[f"{component}.{path}.lora_B.weight"] = torch.ones(8, 2)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "lora.safetensors", metadata)
    return folder / "lora.safetensors"


@pytest.mark.parametrize(("form", "out"), [("diffusers", "x"), ("peft", "x"), ("kohya", "x.safetensors")])
def test_at_strength_0_every_form_holds_a_lora_that_does_nothing(run, tmp_path, form, out):
    source = lora_file(tmp_path / "source", ["unet"])
    run(source, tmp_path / out, "--to", form, "--strength", 0)
    assert all(block.norm() == 0 for block in read_lora(tmp_path / out).blocks().values())


def test_nothing_of_a_replaced_peft_folder_is_read_as_a_part_of_the_new_one(run, tmp_path):
    kinds = (["unet", "text_encoder", "text_encoder_2"], ["unet", "text_encoder"], ["unet"], ["text_encoder_2", "unet"])
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "notes.txt").write_text("mine")
    for components in kinds:
        source = lora_file(tmp_path / "source", components)
        run(source, tmp_path / "peft", "--to", "peft", "--overwrite")
        assert set(read_lora(tmp_path / "peft").components) == set(components)
    assert (tmp_path / "peft" / "notes.txt").read_text() == "mine"


def test_a_second_text_encoder_alone_stays_the_second(run, tmp_path):
    source = lora_file(tmp_path / "source", ["text_encoder_2"])
    run(source, tmp_path / "peft", "--to", "peft")
    for place in (tmp_path / "peft", tmp_path / "peft" / "text_encoder_2"):
        assert list(read_lora(place).components) == ["text_encoder_2"]


def test_a_language_models_folder_keeps_the_name_of_its_base(run, tmp_path):
    PlainLoRA({"model.layers.0.mlp.up_proj": PlainBlock(torch.ones(2, 6), torch.ones(8, 2), 1.0)}).save_peft(
        tmp_path / "one", "HuggingFaceTB/SmolLM2-135M", "CAUSAL_LM"
    )
    run(tmp_path / "one", tmp_path / "two", "--to", "peft", "--strength", 0.5)
    config = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == ("HuggingFaceTB/SmolLM2-135M", "CAUSAL_LM")


def test_what_alpha_was_in_training_stays_while_the_lora_is_the_same(run, tmp_path):
    source = lora_file(tmp_path / "source", ["unet"], {"reslora_lora_alpha": "32"})
    for words, alpha in ((("--to", "kohya"), "32"), (("--to", "kohya", "--strength", 3), "6")):
        run(source, tmp_path / "x.safetensors", *words, "--overwrite")
        with safe_open(tmp_path / "x.safetensors", "pt") as opened:
            assert opened.metadata()["reslora_lora_alpha"] == alpha
