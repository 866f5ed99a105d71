"""What a training step of each method costs beside PEFT's LoRA, measured side by side in one process.

    python -m reslora_sd.benchmark [--quick] [--json FILE] [--base_model FOLDER_OR_HUB_NAME]
    python -m reslora_sd.benchmark --shapes sdxl --precision bf16 --batch_size 1     # random weights, 1024 pixels

Every round times one training step (forward, backward, AdamW) of each method on the same batch, in an order that
turns, so that a machine that slows down slows all of them. Printed: the median step, and the median of the ratios to
PEFT's step of the same round. Memory is the peak of what one step allocates, as torch counts it.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .adapter.adapter import add_reslora
from .assets import DEFAULT_MODEL, MODEL_CONFIGS
from .config import ResLoRAConfig
from .diffusion.conditioning import Conditioning
from .merging.frozen import freeze_paths
from .runs.atomic import write_json
from .runs.names import METHODS

_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
_BASELINE = "peft"
QUICK_SECONDS, SECONDS = 24.0, 180.0


@dataclass(frozen=True)
class Batch:
    """What a U-Net is trained on: made up, since no cost depends on it."""

    sample: Tensor
    """Noisy latents, and what the output is compared with.  (n, c, h, w)"""
    times: Tensor
    """(n,)"""
    conditioning: Conditioning

    def loss(self, unet: Any, autocast: torch.dtype | None) -> Tensor:
        """Mean squared error.  -> ()"""
        with torch.autocast(self.sample.device.type, autocast, enabled=autocast is not None):
            predicted: Tensor = unet(self.sample, self.times, **self.conditioning.arguments()).sample
        return (predicted.float() - self.sample.float()).square().mean()


def make_batch(config: Any, count: int, tokens: int, device: str, dtype: torch.dtype) -> Batch:
    """Random numbers of the shapes that a U-Net of this config takes."""
    size = config.sample_size
    sample = torch.randn(count, config.in_channels, size, size, device=device, dtype=dtype)
    times = torch.randint(0, 1000, (count,), device=device)
    embeddings = torch.randn(count, tokens, config.cross_attention_dim, device=device, dtype=dtype)
    if config.addition_embed_type != "text_time":
        return Batch(sample, times, Conditioning(embeddings))
    wide = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    pooled = torch.randn(count, wide, device=device, dtype=dtype)
    time_ids = torch.tensor([[8.0 * size, 8.0 * size, 0, 0, 8.0 * size, 8.0 * size]] * count, device=device)
    return Batch(sample, times, Conditioning(embeddings, pooled, time_ids))


def make_step(
    unet: nn.Module, method: str, batch: Batch, rank: int, autocast: torch.dtype | None = None
) -> Callable[[], None]:
    """A training step of one method on a U-Net of its own; the adapter is in float32, as in training."""
    if method == _BASELINE:
        from peft import LoraConfig

        unet.requires_grad_(False)
        cast(Any, unet).add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS))
        parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    else:
        config = ResLoRAConfig(residual=METHODS[method], r=rank, lora_alpha=2 * rank)
        adapter = add_reslora(unet, config)
        if config.residual == "frozen":
            freeze_paths(adapter, [batch], lambda given: given.loss(unet, autocast))
        parameters = list(adapter.parameters())
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    unet.train()

    def step() -> None:
        loss = batch.loss(unet, autocast)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def time_rounds(steps: dict[str, Callable[[], None]], seconds: float) -> list[dict[str, float]]:
    """Seconds of one step of each method, round by round, for about the given time (at least three rounds)."""
    names = list(steps)
    for step in steps.values():  # warm-up
        step()
    rounds: list[dict[str, float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < 3 or time.perf_counter() < end:
        turn = len(rounds) % len(names)
        took = {}
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            steps[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took[name] = time.perf_counter() - started
        rounds.append(took)
    return rounds


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that one step has allocated at a time beyond what was there before it, in bytes."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    kineto = profile.profiler.kineto_results  # the one place where every allocation has its time
    changes = sorted((event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def measure(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, Any]:
    """Time and memory of every step beside the first one's, and where they were measured, as plain values."""
    baseline, *_ = steps
    rounds = time_rounds(steps, seconds)
    peaks = {name: peak_bytes(step) for name, step in steps.items()}
    return {
        "rounds": len(rounds),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "methods": {
            name: {
                "seconds": statistics.median(took[name] for took in rounds),
                "seconds_to_peft": statistics.median(took[name] / took[baseline] for took in rounds),
                "peak_bytes": peaks[name],
                "peak_to_peft": peaks[name] / peaks[baseline],
            }
            for name in steps
        },
    }


_PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(arguments: argparse.Namespace, device: str) -> Any:
    """The U-Net that is measured: `--base_model`, or random weights of `--shapes`; frozen weights in `--precision`."""
    from diffusers import UNet2DConditionModel

    from .diffusion.models import load_unet

    if arguments.shapes is None:
        unet = load_unet(str(arguments.base_model))
    else:
        with torch.device(device):
            config = UNet2DConditionModel.load_config(MODEL_CONFIGS / arguments.shapes / "unet")
            unet = UNet2DConditionModel.from_config(config)
    unet = unet.to(device, _PRECISIONS[arguments.precision])
    if arguments.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all methods; gives the figures as plain values."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _PRECISIONS[arguments.precision]
    unet = load_model(arguments, device)
    tokens = arguments.tokens or (24 if arguments.shapes is None else 77)
    batch = make_batch(unet.config, arguments.batch_size, tokens, device, dtype)
    autocast = None if arguments.precision == "no" else dtype
    steps = {
        name: make_step(copy.deepcopy(unet), name, batch, arguments.rank, autocast) for name in (_BASELINE, *METHODS)
    }
    return {
        "base_model": arguments.shapes or str(arguments.base_model),
        "precision": arguments.precision,
        "gradient_checkpointing": arguments.gradient_checkpointing,
        "rank": arguments.rank,
        "batch_size": arguments.batch_size,
        **measure(steps, QUICK_SECONDS if arguments.quick else SECONDS),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    rows = [f"{'method':12} {'ms/step':>8} {'to PEFT':>8} {'peak MB':>8} {'to PEFT':>8}   ({result['rounds']} rounds)"]
    for name, row in result["methods"].items():
        rows.append(
            f"{name:12} {row['seconds'] * 1e3:8.1f} {row['seconds_to_peft']:8.3f} "
            f"{row['peak_bytes'] / 1e6:8.1f} {row['peak_to_peft']:8.3f}"
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m reslora_sd.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--base_model", default=DEFAULT_MODEL, help="Pipeline folder, checkpoint file or Hub name.")
    shapes = sorted(folder.name for folder in MODEL_CONFIGS.iterdir() if (folder / "unet").is_dir())
    parser.add_argument("--shapes", choices=shapes, help="Random weights of this family's size, not --base_model.")
    parser.add_argument("--precision", choices=list(_PRECISIONS), default="no", help="Of the frozen weights.")
    parser.add_argument("--gradient_checkpointing", action="store_true", help="Less memory, more time.")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--tokens", type=int, help="Of a caption; left out: 24, of --shapes 77.")
    finish(parser, argv, run)


def finish(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, run: Callable[[argparse.Namespace], dict[str, Any]]
) -> None:
    """What every benchmark's command line ends with: `--quick`, `--json`, the run, its table."""
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:.0f} s instead of {SECONDS:.0f} s.")
    parser.add_argument("--json", default=None, help="Also write the figures to this file.")
    arguments = parser.parse_args(argv)
    result = run(arguments)
    print(table(result))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
