"""What trained text encoders are measured on beside the captions of a run."""

from __future__ import annotations

import pytest
import torch

from reslora_sd.diffusion.adapters import add_adapters, applied_to
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import Batch
from reslora_sd.diffusion.calibration import predict
from reslora_sd.diffusion.conditioning import LateConditioning
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.other_texts import other_texts, varied_prompts
from tests.single_files import small_pipeline
from tests.toys import move_away_from_zero


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    place = tmp_path_factory.mktemp("base")
    small_pipeline("sd1").save_pretrained(place)
    return load_parts(place)


def test_no_words_the_runs_own_prompts_and_varied_ones_are_met_once_each(parts):
    found = [caption for text in other_texts(parts, ["a rex", "a rex", ""]) for caption in text.captions]
    assert found[:2] == ["", "a rex"] and len(found) == len(set(found)) == 258
    assert len({word for prompt in varied_prompts() for word in prompt.split()}) > 70
    assert varied_prompts() == varied_prompts()


def test_a_merge_of_a_run_with_one_caption_keeps_its_paths_on_other_words(parts):
    adapters = add_adapters(parts, parse_settings(["--train_text_encoder", "--rank", "4", "--method", "reslora_is"]))
    for adapter in adapters.by_component.values():
        move_away_from_zero(adapter)
    drawn, drawn_at_passes = [], []

    def batches():
        for number in range(2):
            generator = torch.Generator().manual_seed(number)
            latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
            drawn.append(number)
            yield Batch(latents, LateConditioning(parts, ("rex", "rex")), noise, torch.tensor([1, 900]))

    def forward(batch):
        drawn_at_passes.append(len(drawn))
        return predict(parts.unet, parts, batch)

    def output(prompts):
        return LateConditioning(parts, prompts).arguments()["encoder_hidden_states"]

    def drift(others, prompts):
        plain = adapters.merge("least_squares", adapters.statistics(batches(), forward, others))
        with applied_to(plain, parts):
            merged = output(prompts)
        with adapters.text["text_encoder"].disabled():
            change = (output(prompts) - unmerged[prompts]).norm()
        return float((merged - unmerged[prompts]).norm() / change)

    new, own = ("The green elephant, reading 7 newspapers", "a tram"), ("rex",)
    with torch.no_grad():
        unmerged = {prompts: output(prompts) for prompts in (new, own)}
        alone, with_others = drift([], new), drift(other_texts(parts), new)
        assert with_others < 0.8 * alone
    adapters.remove()
    assert drawn_at_passes[:2] == [1, 2]  # what reports and stops between batches still can
