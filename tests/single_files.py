"""Shrunken Stable Diffusion pipelines, and the single files that Stability AI's code would keep of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor

from reslora_sd.assets import DEFAULT_MODEL
from tests.unets import SMALL, SMALL_SDXL, small_unet, small_vae

V = {"prediction_type": "v_prediction"}


def small_pipeline(family: str = "sd1", **scheduler: Any) -> Any:
    """A pipeline with random weights: "sd1", "sd2" (open_clip's text encoder) or "sdxl"."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(DEFAULT_MODEL, subfolder="tokenizer")
    vae = small_vae(force_upcast=family == "sdxl")
    schedule = {"beta_schedule": "scaled_linear", **scheduler}
    if family != "sdxl":
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=transformers.CLIPTextModel(_text_config(tokenizer, 24, family == "sd2")),
            tokenizer=tokenizer,
            unet=small_unet({**SMALL, "use_linear_projection": family == "sd2"}),
            scheduler=DDIMScheduler(clip_sample=False, **schedule),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    added = 6 * SMALL_SDXL["addition_time_embed_dim"] + 16
    sizes = {"cross_attention_dim": 24 + 16, "projection_class_embeddings_input_dim": added}
    sizes |= {"block_out_channels": (16, 24), "transformer_layers_per_block": (1, 2), "attention_head_dim": (2, 3)}
    sizes |= {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    sizes |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer, 24)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config(tokenizer, 16, True)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=small_unet({**SMALL_SDXL, **sizes}),
        scheduler=EulerDiscreteScheduler(**schedule),
    )


def _text_config(tokenizer: Any, width: int, open_clip: bool = False) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="gelu" if open_clip else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_single_file(pipeline: Any, file: Path, dtype: torch.dtype = torch.float32, **metadata: str) -> Path:
    """The pipeline's weights under the original names."""
    tensors = {name: value.to(dtype).contiguous() for name, value in original_names(pipeline).items()}
    save_file(tensors, file, metadata or None)
    return file


def original_names(pipeline: Any) -> dict[str, Tensor]:
    """By name in one file."""
    found = {f"model.diffusion_model.{_unet(name, pipeline.unet)}": t for name, t in pipeline.unet.state_dict().items()}
    found |= {f"first_stage_model.{_vae(name, pipeline.vae)}": t for name, t in pipeline.vae.state_dict().items()}
    found = {name: t[..., None, None] if ".mid.attn_1." in name and t.ndim == 2 else t for name, t in found.items()}
    text, second = pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)
    if second is not None:
        return {
            **found,
            **_clip(text, "conditioner.embedders.0."),
            **_open_clip(second, "conditioner.embedders.1.model."),
        }
    if text.config.hidden_act == "gelu":
        return {**found, **_open_clip(text, "cond_stage_model.model.")}
    return {**found, **_clip(text, "cond_stage_model.")}


def _unet(name: str, unet: Any) -> str:
    """The path in Stability AI's U-Net, which numbers the layers of all levels through."""
    each, levels = unet.config.layers_per_block + 1, len(unet.config.block_out_channels)
    for ours, theirs in (
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
    ):
        if name.startswith(ours):
            return _resnet(theirs + name.removeprefix(ours))
    way, level, kind, number, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    first = int(level) * each + int(number)
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(int(level) + 1) * each}.0.op.{rest.removeprefix('conv.')}"
        return _resnet(f"input_blocks.{first + 1}.{int(kind == 'attentions')}.{rest}")
    if kind == "upsamplers":
        attends = "Attn" in unet.config.up_block_types[int(level)]
        assert int(level) < levels - 1
        return f"output_blocks.{int(level) * each + each - 1}.{1 + attends}.{rest}"
    return _resnet(f"output_blocks.{first}.{int(kind == 'attentions')}.{rest}")


def _resnet(name: str) -> str:
    if ".transformer_blocks." in name:
        return name
    for ours, theirs in (
        (".norm1.", ".in_layers.0."),
        (".conv1.", ".in_layers.2."),
        (".norm2.", ".out_layers.0."),
        (".conv2.", ".out_layers.3."),
        (".time_emb_proj.", ".emb_layers.1."),
        (".conv_shortcut.", ".skip_connection."),
    ):
        name = name.replace(ours, theirs)
    return name


def _vae(name: str, vae: Any) -> str:
    last = len(vae.config.block_out_channels) - 1
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{last - int(match[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{last - int(match[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("conv_norm_out", "norm_out")
    if "attn_1" in name:
        for ours, theirs in (("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_", "")):
            name = name.replace(ours, theirs)
    return name


def _clip(encoder: Any, start: str) -> dict[str, Tensor]:
    """OpenAI's CLIP as transformers wrote it then, with the table of positions of its time."""
    found = {f"{start}transformer.text_model.{_inner(name)}": t for name, t in encoder.state_dict().items()}
    found[f"{start}transformer.text_model.embeddings.position_ids"] = torch.arange(4)[None].float()
    return found


def _open_clip(encoder: Any, start: str) -> dict[str, Tensor]:
    """open_clip's text transformer: q, k and v in one matrix."""
    state = {_inner(name): value for name, value in encoder.state_dict().items()}
    found = {
        f"{start}positional_embedding": state["embeddings.position_embedding.weight"],
        f"{start}token_embedding.weight": state["embeddings.token_embedding.weight"],
        f"{start}ln_final.weight": state["final_layer_norm.weight"],
        f"{start}ln_final.bias": state["final_layer_norm.bias"],
        f"{start}text_projection": state.get("text_projection.weight", torch.eye(encoder.config.hidden_size)).T,
    }
    for layer in range(encoder.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{layer}.", f"{start}transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{ours}self_attn.{one}_proj.{kind}"] for one in "qkv"]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
            for one, other in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                found[f"{theirs}{other}.{kind}"] = state[f"{ours}{one}.{kind}"]
    return found


def _inner(name: str) -> str:
    return name.removeprefix("text_model.")
