"""The kinds of files that `tests.damage` damages: how they are made, and how scripts and page read them."""

from __future__ import annotations

import functools
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from PIL import Image
from safetensors.torch import save_file
from transformers import TrainerState

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, load_reslora
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.convert.converting import convert
from reslora_sd.convert.inspecting import as_table, inspect
from reslora_sd.convert.settings import Conversion, ConvertSettings
from reslora_sd.diffusion.adapters import Adapters
from reslora_sd.diffusion.arguments import parse_settings, prompts_in
from reslora_sd.diffusion.checkpoints import load_checkpoint, register_adapter, save_checkpoint
from reslora_sd.diffusion.folders import open_folder
from reslora_sd.diffusion.sources import read_sources
from reslora_sd.runs.checkpoints import find_checkpoint, publish, unfinished
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.reader import read_run
from reslora_sd.text.arguments import GENERATION
from reslora_sd.text.read import read_json_lines
from reslora_sd.text.session import find_resumed
from reslora_sd.text.settings import TextSettings
from tests.conftest import make_picture_folder
from tests.pickled import publish_anew
from tests.toys import TARGETS, ids_for, move_away_from_zero, toy

CONFIG = ResLoRAConfig(residual="middle", r=2, target_modules=TARGETS)
_BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@dataclass(frozen=True)
class Kind:
    """Files of one kind."""

    name: str
    files: tuple[str, ...]
    """Those of which one is damaged."""
    make: Callable[[Path], object]
    """Writes them whole into a folder."""
    read: Callable[[Path], object]
    """Reads them as scripts or page do."""
    afterwards: Callable[[Path], object] | None = None
    """What a stranger does after the damage, so that it isn't found by a checksum."""
    names_file: bool = True
    """Whether an error has to name the damaged file itself."""


def _make_run(folder: Path) -> None:
    run = RunFolder(folder)
    arguments = {"method": "reslora_is", "learning_rate": 1e-3, "validation_prompts": ["red"]}
    run.begin(
        {"method": "reslora_is", "arguments": arguments, "steps": 3, "link_plan": [{"name": "q", "previous": []}]}
    )
    for step in (1, 2, 3):
        run.log(step=step, loss=0.5 / step, lr=1e-3, grad_norm=0.1, seconds=0.2, memory=100.0)
        picture = Image.new("RGB", (2, 2), (step, 0, 0))
        about = {"prompt": "red", "seed": 0, "guidance_scale": 5.0, "negative_prompt": "", "merge_approach": "unmerged"}
        run.add_picture(picture, step, "a.png", **about)
    merge = {"blocks": {"q": {"alpha": 1.0, "alphas": [], "r": 4, "error": 0.1, "norm": 1.0}}}
    run.finish("merge_report.json", {"approach": "input", "drift": {"input": 0.1}, "merges": {"input": merge}})


def _read_run(folder: Path) -> None:
    read_run(folder)
    RunFolder(folder).log_rows()
    RunFolder(folder).pictures()


def _make_sources(folder: Path) -> None:
    (folder / "set.toml").write_text(
        'trigger_word = "rex"\n[[folders]]\npath = "10_rex"\nflip = true\nresolution = 64\n[[folders]]\n'
        'dataset_name = "somebody/pictures"\nrepeats = 3\ncaption_tag_dropout_rate = 0.1\ncaptions = "metadata"\n'
    )


def _make_training_form(folder: Path) -> None:
    adapter = add_reslora(toy(), CONFIG)
    move_away_from_zero(adapter)
    adapter.save(folder / "reslora_adapter.safetensors")


def _read_training_form(folder: Path) -> None:
    model = toy(2) if random.random() < 0.1 else toy()
    before = set(model.state_dict())
    try:
        adapter = load_reslora(model, folder / "reslora_adapter.safetensors")
    except (ValueError, FileNotFoundError):
        if set(model.state_dict()) != before or model._forward_hooks:
            raise RuntimeError("the model is not as it was") from None
        raise
    if not all(bool(value.isfinite().all()) for value in adapter.state_dict().values()):
        raise RuntimeError("NaN was loaded")


def _plain() -> PlainLoRA:
    generator = torch.Generator().manual_seed(0)
    sizes = {"to_q": (8, 8), "to_k": (8, 8), "to_out.0": (8, 8)}
    blocks = {
        f"{_BLOCK}.{name}": PlainBlock(
            torch.randn(2, width, generator=generator), torch.randn(height, 2, generator=generator), 1.5
        )
        for name, (height, width) in sizes.items()
    }
    return PlainLoRA(blocks, ResLoRAConfig(residual="input", r=2), "input")


def _others_file(folder: Path) -> None:
    """As sd-scripts writes it: modules of the U-Net and of the text encoder, with alphas."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    for stem, kernel in ((f"lora_unet_{_BLOCK.replace('.', '_')}_to_q", ()), ("lora_unet_conv_in", (3, 3)), (text, ())):
        ones = (1, 1) if kernel else ()
        tensors[f"{stem}.lora_down.weight"] = torch.randn(2, 4, *kernel, generator=generator)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(8, 2, *ones, generator=generator)
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    save_file(tensors, folder / "others.safetensors", {"ss_tag_frequency": '{"a": {"b": 1}}', "ss_output_name": "x"})


def _convert(form: str, file: str, folder: Path) -> None:
    """Through the command, into a folder of its own."""
    with tempfile.TemporaryDirectory() as out:
        target = Path(out) / ("peft" if form == "peft" else "out.safetensors")
        convert(Conversion(folder / file, target, ConvertSettings(to=form, rank=1)))  # type: ignore[arg-type]


def _inspect(file: str, folder: Path) -> None:
    found = inspect(folder / file)
    as_table(found).encode()
    json.dumps(found, allow_nan=False)


def _read_plain(name: str, folder: Path) -> None:
    plain = PlainLoRA.load(folder / name)
    for block in plain.blocks.values():
        if not bool(block.lora_A.isfinite().all() and block.lora_B.isfinite().all()):
            raise RuntimeError("NaN was loaded")
        block.delta_weight()


class _Training:
    """The parts of a training that its checkpoints hold."""

    def __init__(self) -> None:
        self.model = toy()
        self.adapter = add_reslora(self.model, CONFIG)
        self.accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=0.01)
        self.schedule = get_scheduler("cosine", optimizer, num_warmup_steps=3, num_training_steps=9)
        self.prepared, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        register_adapter(self.accelerator, Adapters(self.adapter), self.schedule)

    def step(self) -> None:
        """One step, so that the optimizer has a state."""
        self.prepared(ids_for(1)).square().mean().backward()
        self.optimizer.step()
        self.schedule.step()


def _make_checkpoint(folder: Path) -> None:
    training = _Training()
    training.step()
    RunFolder(folder).begin({})
    save_checkpoint(training.accelerator, RunFolder(folder), 2, None)


def _read_checkpoint(folder: Path) -> None:
    load_checkpoint(_Training().accelerator, find_checkpoint(folder, "latest"))


def _make_text_checkpoint(folder: Path) -> None:
    run = RunFolder(folder)
    run.begin({"arguments": _text_settings(folder).to_arguments()})
    target = folder / "checkpoint-2"
    written = unfinished(target)
    written.mkdir()
    TrainerState(global_step=2, max_steps=4, log_history=[{"loss": 1.0, "step": 1}]).save_to_json(
        str(written / "trainer_state.json")
    )
    states = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(states, written / "rng_state.pth")
    model = toy()
    torch.save(torch.optim.AdamW(model.parameters()).state_dict(), written / "optimizer.pt")
    torch.save({"last_epoch": 2, "_last_lr": [0.1]}, written / "scheduler.pt")
    publish(written, target, processes=1)


@functools.cache
def _text_settings(folder: Path) -> TextSettings[Any]:
    return GENERATION.parse(["--output_dir", str(folder), "--use_cpu"])


def _read_text_checkpoint(folder: Path) -> None:
    settings = _text_settings(folder)
    settings.training.resume_from_checkpoint = "latest"
    find_resumed(settings)


def _make_pictures_csv(folder: Path) -> None:
    make_picture_folder(folder / "pictures", 2)
    (folder / "pictures" / "metadata.jsonl").unlink()
    (folder / "pictures" / "metadata.csv").write_text("file_name,text\n0.png,a red cat\n1.png,a dog\n", "utf-8")


def _read_pictures(folder: Path) -> None:
    rows: Any = open_folder(folder / "pictures", str(folder.parent / "cache"))
    for row in rows:
        str(row)


def _make_texts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a red cat\na dog\n", "utf-8")
    (folder / "config.yaml").write_text("method: reslora_is\nrank: 4\nmixed_precision: no\nseed: 3\n", "utf-8")
    flags = {"method": "reslora_is", "rank": 4, "validation_prompts": ["a", "b"], "learning_rate": 0.1}
    (folder / "config.json").write_text(json.dumps(flags), "utf-8")
    lines = [{"Body": f"Tom has {number}", "Question": "How many?", "Answer": "9"} for number in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _read_config(name: str, folder: Path) -> None:
    try:
        parse_settings(["--config", str(folder / name)])
    except SystemExit as error:  # argparse's own: its usage and one line
        if error.code != 2:
            raise RuntimeError(f"ended with {error.code}") from error


def _of_one(name: str, make: Callable[[Path], object], file: str, read: Callable[[Path], object]) -> Kind:
    return Kind(name, (file,), make, read)


_RUN_FILES = ("run.json", "log.jsonl", "validation/index.jsonl", "merge_report.json", "validation/step-000001/a.png")
_PARTS = ("checkpoint.json", "optimizer.bin", "random_states_0.pkl", "reslora_adapter.safetensors", "schedule.json")
_TEXT_PARTS = ("checkpoint.json", "trainer_state.json", "rng_state.pth", "optimizer.pt", "scheduler.pt")
_PEFT = ("adapter_model.safetensors", "adapter_config.json")


def _checkpoint_files(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"checkpoint-2/{name}" for name in names)


def _rewrite(folder: Path) -> None:
    try:
        publish_anew(folder / "checkpoint-2")
    except (ValueError, KeyError, TypeError, RecursionError):  # the list itself was damaged
        return


KINDS = (
    Kind("run", _RUN_FILES, _make_run, _read_run, names_file=False),
    _of_one("training form", _make_training_form, "reslora_adapter.safetensors", _read_training_form),
    _of_one(
        "merged, diffusers",
        lambda folder: _plain().save_diffusers(folder),
        "pytorch_lora_weights.safetensors",
        functools.partial(_read_plain, ""),
    ),
    _of_one(
        "merged, kohya",
        lambda folder: _plain().save_kohya(folder / "k.safetensors"),
        "k.safetensors",
        functools.partial(_read_plain, "k.safetensors"),
    ),
    _of_one(
        "another tool's, converted",
        _others_file,
        "others.safetensors",
        functools.partial(_convert, "diffusers", "others.safetensors"),
    ),
    _of_one(
        "another tool's, inspected",
        _others_file,
        "others.safetensors",
        functools.partial(_inspect, "others.safetensors"),
    ),
    Kind(
        "PEFT, converted",
        _PEFT,
        lambda folder: _plain().save_peft(folder),
        functools.partial(_convert, "kohya", ""),
    ),
    _of_one(
        "diffusers, converted",
        lambda folder: _plain().save_diffusers(folder),
        "pytorch_lora_weights.safetensors",
        functools.partial(_convert, "peft", ""),
    ),
    _of_one(
        "training form, inspected",
        _make_training_form,
        "reslora_adapter.safetensors",
        functools.partial(_inspect, "reslora_adapter.safetensors"),
    ),
    Kind("merged, PEFT", _PEFT, lambda folder: _plain().save_peft(folder), functools.partial(_read_plain, "")),
    Kind("checkpoint", _checkpoint_files(_PARTS), _make_checkpoint, _read_checkpoint, _rewrite, names_file=False),
    Kind(
        "text checkpoint",
        _checkpoint_files(_TEXT_PARTS),
        _make_text_checkpoint,
        _read_text_checkpoint,
        _rewrite,
        names_file=False,
    ),
    Kind(
        "metadata.jsonl",
        ("pictures/metadata.jsonl",),
        lambda folder: make_picture_folder(folder / "pictures", 2),
        _read_pictures,
        names_file=False,
    ),
    Kind("set.toml", ("set.toml",), _make_sources, lambda folder: read_sources(folder / "set.toml")),
    Kind("metadata.csv", ("pictures/metadata.csv",), _make_pictures_csv, _read_pictures, names_file=False),
    _of_one("prompts", _make_texts, "prompts.txt", lambda folder: prompts_in([str(folder / "prompts.txt")])),
    Kind(
        "config.yaml", ("config.yaml",), _make_texts, functools.partial(_read_config, "config.yaml"), names_file=False
    ),
    Kind(
        "config.json", ("config.json",), _make_texts, functools.partial(_read_config, "config.json"), names_file=False
    ),
    _of_one(
        "rows",
        _make_texts,
        "rows.jsonl",
        lambda folder: read_json_lines(str(folder / "rows.jsonl"), ("Body", "Answer")),
    ),
)
