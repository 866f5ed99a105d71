"""A run folder that no training made: for measuring, and for tests of what a run can lack."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from reslora_sd.runs.names import (
    ANSWERS_FILE,
    BASE,
    DEFAULT_PROMPTS,
    INDEX_FILE,
    LOG_FILE,
    METHODS,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_FILE,
    UNMERGED,
    default_approach,
)

_LANES = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
_STAGES = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")


def make_run(
    folder: Path,
    method: str = "lora",
    steps: int = 200,
    every: int = 1,
    prompts: tuple[str, ...] = (DEFAULT_PROMPTS[0], "rocket"),
    seeds: tuple[int, ...] = (42,),
    side: int = 64,
) -> Path:
    """Writes run.json, log.jsonl, a picture for each prompt, seed and `every` steps, and a merge report."""
    validation = (folder / INDEX_FILE).parent
    validation.mkdir(parents=True)
    approach = default_approach(METHODS[method])
    settings = {
        "method": method,
        "arguments": {"max_train_steps": steps},
        "base_model": "made-up",
        "seed": 42,
        "steps": steps,
        "link_plan": _link_plan(method),
    }
    (folder / RUN_FILE).write_text(json.dumps(settings), encoding="utf-8")
    (folder / LOG_FILE).write_text(
        "".join(json.dumps(_log(step, steps, method)) + "\n" for step in range(1, steps + 1))
    )
    lines = []
    for step in range(every, steps + 1, every):
        (validation / f"step-{step:06d}").mkdir()
        for number, prompt in enumerate(prompts):
            for seed in seeds:
                lines.append(_draw(validation, step, number, prompt, seed, side))
    (folder / INDEX_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / REPORT_FILE).write_text(json.dumps(_report(approach, method)), encoding="utf-8")
    return folder


def make_text_run(folder: Path, method: str = "reslora_is", seed: int = 42, rows: int = 25) -> Path:
    """Writes what train_nlg_reslora.py leaves, without weights: every third answer of the trained model is wrong."""
    (folder / INDEX_FILE).parent.mkdir(parents=True)
    (folder / INDEX_FILE).touch()
    exported = f"merged: {default_approach(METHODS[method])}"
    forms = (BASE, UNMERGED, exported)
    arguments = {"task": "svamp", "max_steps": 20, "seed": seed, "output_dir": str(folder)}
    settings = {"method": method, "arguments": arguments, "base_model": "made-up", "seed": seed, "steps": 20}
    (folder / RUN_FILE).write_text(json.dumps({**settings, "link_plan": _link_plan(method)}))
    (folder / LOG_FILE).write_text("".join(json.dumps(_log(step, 20, method)) + "\n" for step in range(1, 21)))
    figures = {form: {"accuracy": 0.1 * place + seed / 1000, "kl": 0.01} for place, form in enumerate(forms)}
    epochs = [{"epoch": epoch, "accuracy": epoch / 10} for epoch in (1, 2)]
    kept = [{"step": step, "epoch": step / 10, "loss": 1 / step} for step in (10, 20)]
    results = {"steps": 20, "results": figures, "by_epoch": epochs, "evaluations": kept}
    (folder / RESULTS_FILE).write_text(json.dumps(results))
    (folder / REPORT_FILE).write_text(json.dumps(_report(default_approach(METHODS[method]), method)))
    lines = []
    for number in range(rows):
        right = {form: form != BASE and number % 3 > 0 for form in forms}
        said = {form: f" {number} + 1 = {number + 1 if good else 0}" for form, good in right.items()}
        row = {"Body": f"<b>Ann</b> has {number} pens.", "Question": "How many with one more?"}
        entry = {"row": row, "prompt": f"Question: {row['Body']} {row['Question']}", "target": str(number + 1)}
        lines.append(json.dumps({**entry, "answers": said, "right": right}) + "\n")
    (folder / ANSWERS_FILE).write_text("".join(lines))
    return folder


def _log(step: int, steps: int, method: str) -> dict[str, Any]:
    pace = 40 if method == "lora" else 30
    row = {
        "step": step,
        "loss": 0.5 + math.exp(-step / pace),
        "lr": 1e-3,
        "grad_norm": 0.2,
        "seconds": 0.5,
        "memory": 700,
    }
    return {**row, "validation_loss": 0.5 + math.exp(-step / pace)} if step % 10 == 0 or step == steps else row


def _draw(validation: Path, step: int, number: int, prompt: str, seed: int, side: int) -> dict[str, Any]:
    image = Image.new("RGB", (side, side), (step % 256, 60 * number % 256, seed % 256))
    file = f"step-{step:06d}/unmerged-{number:02d}-{seed}.png"
    image.save(validation / file, compress_level=1)
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return {"step": step, "prompt": prompt, "seed": seed, "merge_approach": UNMERGED, "file": file, "sha256": digest}


def _link_plan(method: str) -> list[dict[str, Any]]:
    plan: list[dict[str, Any]] = []
    for number, stage in enumerate(_STAGES):
        for lane in _LANES:
            attention = f"{stage}.attentions.0.transformer_blocks.0"
            before = f"{_STAGES[number - 1]}.attentions.0.transformer_blocks.0.{lane}"
            linked = method != "lora" and number in (2, 3)
            plan.append(
                {
                    "name": f"{attention}.{lane}",
                    "chain": lane,
                    "out_features": 64,
                    "tokens": 256 if number in (0, 4) else 64,
                    "predecessors": [before] if linked else [],
                    "reason": "" if linked else "the first",
                }
            )
    return plan


def _report(approach: str, method: str) -> dict[str, Any]:
    norm = 1.0 if method == "lora" else 1.5
    blocks: dict[str, Any] = {
        link["name"]: {"alpha": None, "alphas": [], "r": 16, "error": 0.02 * place, "norm": norm + 0.01 * place}
        for place, link in enumerate(_link_plan(method))
    }
    end = {"loss": {BASE: 0.7, UNMERGED: 0.5, approach: 0.51}, "drift": {approach: 0.05}}
    return {"approach": approach, "blocks": blocks, "other_approaches": {}, "end_to_end": end}
