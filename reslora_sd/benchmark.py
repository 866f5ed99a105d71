"""What a training step of each method costs beside PEFT's LoRA, measured side by side in one process.

    python -m reslora_sd.benchmark [--quick] [--json FILE] [--base_model FOLDER_OR_HUB_NAME]

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
from typing import Any, cast

import torch
from torch import Tensor, nn

from .adapter.adapter import add_reslora
from .config import ResLoRAConfig
from .diffusion.models import DEFAULT_MODEL
from .runs.atomic import write_json
from .runs.names import METHODS

_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
_BASELINE = "peft"
QUICK_SECONDS, SECONDS = 24.0, 180.0


def make_step(
    unet: nn.Module, method: str, inputs: tuple[Tensor, ...], target: Tensor, rank: int
) -> Callable[[], None]:
    """A training step of one method on a U-Net of its own."""
    if method == _BASELINE:
        from peft import LoraConfig

        unet.requires_grad_(False)
        cast(Any, unet).add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS))
        parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    else:
        config = ResLoRAConfig(residual=METHODS[method], r=rank, lora_alpha=2 * rank)
        parameters = list(add_reslora(unet, config).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    unet.train()

    def step() -> None:
        loss = (unet(*inputs).sample - target).square().mean()
        loss.backward()
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


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all methods; gives the figures as plain values."""
    from .diffusion.models import load_unet

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = load_unet(str(arguments.base_model)).to(device)
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    sample = torch.randn(arguments.batch_size, unet.config.in_channels, size, size, device=device)
    times = torch.randint(0, 1000, (arguments.batch_size,), device=device)
    inputs = (sample, times, torch.randn(arguments.batch_size, arguments.tokens, width, device=device))
    steps = {
        name: make_step(copy.deepcopy(unet), name, inputs, torch.randn_like(sample), arguments.rank)
        for name in (_BASELINE, *METHODS)
    }
    return {
        "base_model": str(arguments.base_model),
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
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24, help="Text tokens of a caption.")
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
