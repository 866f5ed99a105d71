"""LoRA files that others made: read at their full strength, or refused by name."""

import json
import re
import warnings

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

from reslora_sd import PlainLoRA
from reslora_sd.files.reading import read_lora
from reslora_sd.files.unet_names import module_of
from tests.lora_files import kohya_deltas, kohya_file

SITE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
STEM = "lora_unet_" + SITE.replace(".", "_")
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


def matrices(down, up, r=4, kernel=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    ones = (1, 1) if kernel else ()
    return {down: torch.randn(r, 6, *kernel, generator=generator), up: torch.randn(8, r, *ones, generator=generator)}


def pair(stem, down="lora_A", up="lora_B", **more):
    return matrices(f"{stem}.{down}.weight", f"{stem}.{up}.weight", **more)


def delta(tensors):
    up, down = (next(value for key, value in tensors.items() if re.search(kind, key)) for kind in ("B|up", "A|down"))
    return torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def read_of(tmp_path, tensors, metadata=None):
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    return read_lora(tmp_path / "x.safetensors")


NAMINGS = {
    "diffusers": ("unet", SITE, pair(f"unet.{SITE}")),
    "diffusers, one U-Net": ("unet", SITE, pair(SITE)),
    "diffusers, convolution": ("unet", CONV, pair(f"unet.{CONV}", kernel=(3, 3))),
    "lora.down": ("unet", SITE, pair(f"unet.{SITE}", "lora.down", "lora.up")),
    "to_out": (
        "unet",
        SITE.replace("to_q", "to_out.0"),
        pair(f"unet.{SITE.replace('to_q', 'processor.to_out')}_lora", "down", "up"),
    ),
    "processor": ("unet", SITE, pair(f"unet.{SITE.replace('to_q', 'processor.to_q')}_lora", "down", "up")),
    "no prefix, processor": ("unet", SITE, pair(f"{SITE.replace('to_q', 'processor.to_q')}_lora", "down", "up")),
    "text": ("text_encoder", TEXT, pair(f"text_encoder.{TEXT}")),
    "second text": ("text_encoder_2", TEXT, pair(f"text_encoder_2.{TEXT}")),
    "text, transformers 5": ("text_encoder", TEXT, pair(f"text_encoder.{TEXT.removeprefix('text_model.')}")),
    "text, linear layer": (
        "text_encoder",
        TEXT,
        pair(f"text_encoder.{TEXT}", "lora_linear_layer.down", "lora_linear_layer.up"),
    ),
    "text, to_q_lora": (
        "text_encoder",
        TEXT,
        pair(f"text_encoder.{TEXT.replace('q_proj', 'to_q')}_lora", "down", "up"),
    ),
    "kohya": ("unet", SITE, pair(STEM, "lora_down", "lora_up")),
    "kohya, text": ("text_encoder", TEXT, pair("lora_te_" + TEXT.replace(".", "_"), "lora_down", "lora_up")),
    "kohya, text 1": ("text_encoder", TEXT, pair("lora_te1_" + TEXT.replace(".", "_"), "lora_down", "lora_up")),
    "kohya, text 2": ("text_encoder_2", TEXT, pair("lora_te2_" + TEXT.replace(".", "_"), "lora_down", "lora_up")),
    "kohya, convolution": (
        "unet",
        CONV,
        pair("lora_unet_" + CONV.replace(".", "_"), "lora_down", "lora_up", kernel=(3, 3)),
    ),
    "SAI": (
        "unet",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "lora_down", "lora_up"),
    ),
    "SAI, skip": (
        "unet",
        "down_blocks.1.resnets.0.conv_shortcut",
        pair("lora_unet_input_blocks_4_0_skip_connection", "lora_down", "lora_up", kernel=(1, 1)),
    ),
}


@pytest.mark.parametrize("name", NAMINGS)
def test_every_naming_gives_component_path_and_delta(name, tmp_path):
    component, path, tensors = NAMINGS[name]
    for precision in (torch.float32, torch.float16, torch.bfloat16):
        stored = {key: value.to(precision) for key, value in tensors.items()}
        file = read_of(tmp_path, stored)
        assert {found: list(blocks) for found, blocks in file.components.items()} == {component: [path]}
        block = file.blocks(component)[path]
        assert block.scaling == 1.0 and block.lora_A.dtype == torch.float32
        expected = delta({key: value.float() for key, value in stored.items()})
        torch.testing.assert_close(block.delta_weight(), expected)
        assert file.form == ("sai" if "SAI" in name else "kohya" if "kohya" in name else "diffusers")


@pytest.mark.parametrize("name", NAMINGS)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_modules_own_alpha_is_its_scale(name, shape, tmp_path):
    component, path, tensors = NAMINGS[name]
    stem = re.sub(r"\.(lora_A|lora_down|lora\.down|lora_linear_layer\.down|down)\.weight$", "", next(iter(tensors)))
    file = read_of(tmp_path, {**tensors, f"{stem}.alpha": torch.full(shape, 3.0)})
    assert file.blocks(component)[path].scaling == 3 / 4


def test_a_kohya_file_is_read_whole(tmp_path):
    for family, form, sizes in (
        ("sd1", "kohya", {"unet": 192, "text_encoder": 72}),
        ("sdxl", "sai", {"unet": 182, "text_encoder": 72, "text_encoder_2": 192}),
    ):
        tensors = kohya_file(family, alpha=2.0, convolutions=family == "sd1")
        file = read_of(tmp_path, tensors, {"ss_network_dim": "4"})
        assert file.form == form and file.metadata["ss_network_dim"] == "4"
        found = {name: len(blocks) for name, blocks in file.components.items()}
        if family == "sd1":
            assert found.pop("unet") > sizes.pop("unet")  # residual blocks and samplers besides
        else:
            del found["unet"], sizes["unet"]
        assert found == sizes
        for stem, expected in kohya_deltas(tensors).items():
            component, path = module_of(stem) or ("", "")
            torch.testing.assert_close(
                file.blocks(component)[path].delta_weight().double(), expected, rtol=1e-5, atol=1e-5
            )


def test_several_components_each_have_their_own_settings(tmp_path):
    settings = {
        **{"unet.r": 4, "unet.lora_alpha": 8, "unet.rank_pattern": {"to_k": 2}, "unet.alpha_pattern": {"to_k": 6}},
        **{"text_encoder.r": 3, "text_encoder.lora_alpha": 1, "text_encoder.use_rslora": True},
    }
    key = SITE.replace("to_q", "to_k")
    tensors = {
        **pair(f"unet.{SITE}"),
        **pair(f"unet.{key}", r=2),
        **pair(f"text_encoder.{TEXT}", r=3),
        **pair(f"text_encoder_2.{TEXT}"),
    }
    file = read_of(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(settings)})
    assert file.blocks()[SITE].scaling == 2.0 and file.blocks()[key].scaling == 3.0
    assert file.blocks("text_encoder")[TEXT].scaling == pytest.approx(3**-0.5)
    assert file.blocks("text_encoder_2")[TEXT].scaling == 1.0  # of which the metadata say nothing
    plain = PlainLoRA.load(tmp_path / "x.safetensors")
    assert sorted(plain.text_encoders) == ["text_encoder", "text_encoder_2"] and set(plain.blocks) == {SITE, key}


class Model(nn.Module):
    """Two linears of one ending, and a convolution."""

    def __init__(self):
        super().__init__()
        self.mid_block = nn.ModuleDict(
            {"to_q": nn.Linear(6, 8), "more_to_q": nn.Linear(6, 8), "conv": nn.Conv2d(6, 8, 3)}
        )
        self.conv_in = nn.Conv2d(6, 8, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"to_q": 2}},
        {"alpha_pattern": {".*to_q": 2}, "rank_pattern": {"to_q": 3}},
        {"rank_pattern": {"^mid_block.to_q": 3, "to_q": 2, "conv": 1}, "alpha_pattern": {"mid_block.(conv|to_q)": 5}},
        {"rank_pattern": {"conv": 3, "conv_in": 1}, "use_rslora": True, "alpha_pattern": {"onv_in": 5, "c.nv_in": 7}},
    ],
)
def test_peft_itself_has_the_same_scales(settings, tmp_path):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=r"mid_block\..*|conv_in", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, on rsLoRA with patterns
        model = inject_adapter_in_model(config, Model())
    config.save_pretrained(tmp_path)
    tensors = {
        f"base_model.model.{name.replace('.default', '')}": torch.randn_like(value)
        for name, value in model.state_dict().items()
        if "lora_" in name
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    blocks = read_lora(tmp_path).blocks()
    scales = {name: module.scaling["default"] for name, module in model.named_modules() if hasattr(module, "scaling")}
    assert len(scales) == 4 and {name: block.scaling for name, block in blocks.items()} == scales


def peft_folder(folder, path=SITE, **settings):
    folder.mkdir(exist_ok=True)
    save_file(pair(f"base_model.model.{path}"), folder / "adapter_model.safetensors")
    LoraConfig(r=4, lora_alpha=2, target_modules=["to_q"]).save_pretrained(folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return folder


def test_a_folder_of_peft_folders_is_one_lora(tmp_path):
    peft_folder(tmp_path / "unet")
    peft_folder(tmp_path / "text_encoder_2", TEXT.removeprefix("text_model."))
    file = read_lora(tmp_path)
    assert file.form == "peft" and file.blocks()[SITE].scaling == file.blocks("text_encoder_2")[TEXT].scaling == 0.5
    peft_folder(tmp_path / "text_encoder", SITE)
    with pytest.raises(ValueError, match=r"text_encoder.adapter_model.safetensors is no LoRA .*to_q"):
        read_lora(tmp_path)


def test_a_language_models_peft_folder_is_no_unets(tmp_path):
    file = read_lora(peft_folder(tmp_path, "model.layers.0.self_attn.q_proj"))
    assert list(file.components) == ["model"]
    assert list(PlainLoRA.load(tmp_path).blocks) == ["model.layers.0.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora is True: DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4', which changes the base model"),
        ({"layer_replication": [[0, 2]]}, "replicated layers"),
        ({"lora_bias": True}, "biases"),
        ({"r": 8}, "the settings give mid_block.* rank 8, but its matrices have 4"),
        ({"rank_pattern": {"to_q": 2.0}}, "is 2.0, which is no rank"),
        ({"rank_pattern": []}, "rank_pattern is .*no table"),
        ({"use_rslora": "yes"}, "neither true nor false"),
        ({"lora_alpha": 10**400}, "no finite number"),
    ],
)
def test_settings_that_say_more_than_a_plain_lora_are_refused(settings, words, tmp_path):
    with pytest.raises(ValueError, match=rf"adapter_config\.json.*{words}"):
        read_lora(peft_folder(tmp_path, **settings))


FOREIGN = {
    f"{STEM}.dora_scale": "DoRA",
    f"unet.{SITE}.lora_magnitude_vector": "DoRA",
    f"{STEM}.hada_w1_a": "LoHa",
    f"{STEM}.lokr_w1": "LoKr",
    f"{STEM}.oft_blocks": "OFT",
    f"{STEM}.lora_mid.weight": "Tucker",
    f"{STEM}.diff": "whole differences",
    f"{STEM}.diff_b": "whole differences",
    f"{STEM}.on_input": "IA3",
    f"base_model.model.{SITE}.ia3_l": "IA3",
    f"unet.{SITE}.lora_B.bias": "biases",
    "bundle_emb.me.string_to_param.*": "embedded textual inversion",
    "emb_params": "textual inversion",
    "base_model.model.embed.lora_embedding_A": "embedding",
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "FLUX",
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": "FLUX",
    "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": "Stable Diffusion 3",
    "transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight": "Stable Diffusion 3",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_k.alpha": "Stable Diffusion 3",
    "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": "a diffusion transformer",
    "model.diffusion_model.input_blocks.0.0.weight": "a whole checkpoint",
    "residual_blocks.a.A": "training form",
    "lora_unet_down_blocks_0_nothing.alpha": "no part of a plain LoRA",
    "lora_te_text_model_encoder_layers_0_self_attn_z_proj.alpha": "no part of a plain LoRA",
    "text_encoder.roberta.q_proj.lora_A.weight": "no part of a plain LoRA",
    "unet.somewhere.to_q.lora_A.weight": "no part of a plain LoRA",
    "something": "no part of a plain LoRA",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_what_is_no_plain_lora_of_stable_diffusion_is_refused_by_name(key, tmp_path):
    tensors = {**pair(STEM, "lora_down", "lora_up"), key: torch.ones(4)}
    with pytest.raises(ValueError, match=rf"x\.safetensors .*{re.escape(key)}.*{FOREIGN[key]}"):
        read_of(tmp_path, tensors)


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({f"{STEM}.lora_up.weight": torch.ones(8, 4)}, None, rf"lacks {STEM}\.lora_down"),
        ({f"unet.{SITE}.lora.down.weight": torch.ones(4, 8)}, None, r"lacks .*to_q\.lora\.up\.weight"),
        ({**pair(f"unet.{SITE}"), **pair(f"unet.{SITE}", "lora.down", "lora.up")}, None, "names .* twice"),
        ({**pair(f"unet.{SITE}"), **pair(STEM, "lora_down", "lora_up")}, None, "twice|mixes the names"),
        (
            {**pair(f"unet.{SITE}"), **pair(STEM.replace("to_q", "to_k"), "lora_down", "lora_up")},
            None,
            "mixes the names",
        ),
        (pair(f"unet.{SITE}", kernel=(3, 3, 3)), None, "no plain LoRA of linears and convolutions"),
        (pair(f"unet.{SITE}", kernel=(3,)), None, "no plain LoRA of linears and convolutions"),
        ({key: value.int() for key, value in pair(f"unet.{SITE}").items()}, None, r"torch\.int32"),
        ({**pair(STEM, "lora_down", "lora_up"), f"{STEM}.alpha": torch.ones(2)}, None, r"alpha of shape \(2,\)"),
        (
            {**pair(f"unet.{SITE}"), f"unet.{SITE}.alpha": torch.ones(())},
            {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 4}'},
            "scale is said twice",
        ),
        ({}, None, "holds no tensor"),
    ],
)
def test_what_does_not_fit_together_is_told(tensors, metadata, words, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.safetensors.*({words})"):
        read_of(tmp_path, tensors, metadata)
