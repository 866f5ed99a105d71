"""A pipeline with the LoRA in its weights: the pipeline that diffusers itself makes of both."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn

from tests.single_files import save_single_file

ALPHA = 3.0


def kohya_of(pipeline, out):
    """A LoRA of every linear and convolution of the U-Net's transformers and residual blocks, and the text encoder."""
    torch.manual_seed(0)
    tensors = {}
    for prefix, model in (("lora_unet_", pipeline.unet), ("lora_te_text_model_", pipeline.text_encoder)):
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and ("blocks." in name or "layers." in name):
                height, *size = layer.weight.shape
                stem = prefix + name.replace(".", "_")
                tensors[f"{stem}.lora_down.weight"] = 0.1 * torch.randn(2, *size)
                tensors[f"{stem}.lora_up.weight"] = 0.1 * torch.randn(height, 2, *((1, 1) if size[1:] else ()))
                tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, out)


def test_the_pipeline_is_that_of_diffusers_own_fusing(run, tmp_path, tiny_pipeline_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    kohya_of(pipeline, tmp_path / "a.safetensors")
    [said] = run(tmp_path / "a.safetensors", tmp_path / "fused", "--fuse", tiny_pipeline_folder, "--strength", 0.5)
    assert "modules of unet" in said and "modules of text_encoder in its weights; largest rounding 0" in said
    fused = StableDiffusionPipeline.from_pretrained(tmp_path / "fused")
    pipeline.load_lora_weights(str(tmp_path / "a.safetensors"))
    pipeline.fuse_lora(lora_scale=0.5)
    pipeline.unload_lora_weights()
    base = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    for part in ("unet", "text_encoder", "vae"):
        found, theirs = getattr(fused, part).state_dict(), getattr(pipeline, part).state_dict()
        torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)
        before = getattr(base, part).state_dict()
        changed = {name for name, value in found.items() if not torch.equal(value, before[name])}
        assert bool(changed) == (part != "vae")

    with pytest.raises(ValueError, match="is there already"):
        run(tmp_path / "a.safetensors", tmp_path / "fused", "--fuse", tiny_pipeline_folder)
    words = ("--fuse", tmp_path / "fused", "--strength", -0.5, "--precision", "bf16", "--overwrite")
    run(tmp_path / "a.safetensors", tmp_path / "fused", *words)  # in place, and back
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "fused").unet.state_dict()
    torch.testing.assert_close(again, base.unet.state_dict(), rtol=0.02, atol=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "fused"]


def test_a_lora_of_another_model_and_a_folder_of_others_stay_untouched(run, tmp_path, tiny_pipeline_folder):
    site = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{site}.lora_A.weight": torch.ones(1, 320), f"{site}.lora_B.weight": torch.ones(320, 1)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"doesn't fit the unet of .* which belongs to another model"):
        run(tmp_path / "a.safetensors", tmp_path / "out", "--fuse", tiny_pipeline_folder)
    encoder = "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"
    tensors = {f"{encoder}.lora_A.weight": torch.ones(1, 8), f"{encoder}.lora_B.weight": torch.ones(8, 1)}
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="has no text_encoder_2, which this LoRA is for"):
        run(tmp_path / "b.safetensors", tmp_path / "out", "--fuse", tiny_pipeline_folder)
    with pytest.raises(ValueError, match=r"Cannot read the pipeline .*save_pretrained"):
        run(tmp_path / "a.safetensors", tmp_path / "out", "--fuse", tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="something else than a pipeline"):
        run(tmp_path / "a.safetensors", tmp_path / "mine", "--fuse", tiny_pipeline_folder, "--overwrite")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_single_file_becomes_a_pipeline_with_the_lora_in_it(run, tmp_path, tiny_pipeline_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    kohya_of(pipeline, tmp_path / "a.safetensors")
    file = save_single_file(pipeline, tmp_path / "model.safetensors")
    run(tmp_path / "a.safetensors", tmp_path / "one", "--fuse", tiny_pipeline_folder)
    run(tmp_path / "a.safetensors", tmp_path / "two", "--fuse", file, "--model_config", tiny_pipeline_folder)
    one, two = (StableDiffusionPipeline.from_pretrained(tmp_path / name) for name in ("one", "two"))
    for part in ("unet", "text_encoder", "vae"):
        torch.testing.assert_close(getattr(one, part).state_dict(), getattr(two, part).state_dict())
    assert type(one.scheduler) is type(two.scheduler)
    words = ("--model_config", tiny_pipeline_folder)
    with pytest.raises(ValueError, match="are for a model in one file"):
        run(tmp_path / "a.safetensors", tmp_path / "three", "--fuse", tiny_pipeline_folder, *words)
