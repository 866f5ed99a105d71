"""A plain LoRA that acts for a while equals the fused one, and leaves nothing behind."""

import copy

import pytest
import torch

from reslora_sd import ResLoRAConfig, add_reslora, merge
from reslora_sd.merging.applied import applied
from tests.texts import small_llama, tokens_for
from tests.unets import inputs_for, move_away_from_zero, small_unet

TEXT = ResLoRAConfig(residual="block", r=4, target_modules=("q_proj", "v_proj"))


def adapted(model, config):
    adapter = add_reslora(model, config)
    for block in adapter.blocks.values():
        block.double()
    move_away_from_zero(adapter)
    return adapter


@pytest.mark.parametrize("kind", ["text", "unet"])
def test_it_gives_what_fusing_gives_and_is_gone_after(kind):
    model = small_llama(dtype=torch.float64) if kind == "text" else small_unet(dtype=torch.float64)
    inputs = {"input_ids": tokens_for(model)} if kind == "text" else inputs_for(model)
    fused = copy.deepcopy(model)
    adapter = adapted(model, TEXT if kind == "text" else ResLoRAConfig(residual="block", r=4))
    plain = merge(adapter)
    plain.fuse_into(fused)
    unmerged = model(**inputs)[0]
    with applied(plain, model):
        merged = model(**inputs)[0]
    torch.testing.assert_close(merged, fused(**inputs)[0], rtol=1e-3, atol=1e-3)  # fusing sums in float32
    torch.testing.assert_close(merged, unmerged, rtol=1e-3, atol=1e-3)  # Eq. 5 is exact
    assert torch.equal(model(**inputs)[0], unmerged)
    assert not any(module._forward_hooks for name, module in model.named_modules() if name in plain.blocks)


def test_a_lora_of_another_model_is_refused_and_leaves_no_hook():
    plain = merge(adapted(small_llama(dtype=torch.float64), TEXT))
    unet = small_unet()
    with pytest.raises(ValueError, match="belongs to another model"), applied(plain, unet):
        pass


def test_fusing_into_a_model_that_has_its_adapter_is_refused():
    model = small_llama(dtype=torch.float64)
    plain = merge(adapted(model, TEXT))
    with pytest.raises(ValueError, match="act twice"):
        plain.fuse_into(model)
