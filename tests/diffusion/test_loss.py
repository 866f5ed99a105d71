import pytest
import torch
from diffusers import DDPMScheduler

from reslora_sd.diffusion.conditioning import Conditioning
from reslora_sd.diffusion.loss import add_noise_offset, diffusion_loss, min_snr_weights


class Echo(torch.nn.Module):
    """Predicts what it is told to."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, sample, timesteps, encoder_hidden_states):
        return type("Output", (), {"sample": self.prediction})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_loss_is_zero_for_the_right_prediction(kind, zero_snr):
    if kind == "epsilon" and zero_snr:
        pytest.skip("cannot be learned; load_parts refuses it")
    scheduler = DDPMScheduler(prediction_type=kind, rescale_betas_zero_snr=zero_snr)
    torch.manual_seed(0)
    latents, noise, times = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    cumulated = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    target = noise if kind == "epsilon" else cumulated.sqrt() * noise - (1 - cumulated).sqrt() * latents
    told = Conditioning(latents)
    loss = diffusion_loss(Echo(target), scheduler, latents, told, noise, times)
    assert float(loss) < 1e-9
    assert float(diffusion_loss(Echo(target + 2), scheduler, latents, told, noise, times)) == pytest.approx(4.0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_the_papers(kind):
    scheduler = DDPMScheduler(prediction_type=kind)
    times = torch.tensor([1, 300, 990])
    a = scheduler.alphas_cumprod[times]
    snr = a / (1 - a)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (snr if kind == "epsilon" else snr + 1)
    torch.testing.assert_close(min_snr_weights(scheduler, times, 5.0), expected)
    zero = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert min_snr_weights(zero, torch.tensor([999]), 5.0).isfinite().all()


def test_noise_offset_shifts_whole_channels():
    noise = torch.zeros(2, 4, 8, 8)
    moved = add_noise_offset(noise, 0.1, torch.Generator().manual_seed(0))
    assert moved.std(dim=(2, 3)).max() < 1e-7 and moved.abs().min() > 0
