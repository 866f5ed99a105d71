"""The adapters of a run: the U-Net's, and with `--train_text_encoder` those of its text encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast
from torch import Tensor, nn

from ..adapter.adapter import ResLoRAAdapter, add_reslora, load_reslora
from ..adapter.text import gradient_checkpointing_kwargs
from ..adapter.training_form import load_adapter_state
from ..config import ResLoRAConfig
from ..files.lora_file import TEXT_ENCODER, UNET
from ..merging.applied import applied
from ..merging.merge import merge
from ..merging.plain_lora import PlainLoRA
from ..merging.statistics import Statistics, collect_statistics
from ..runs.names import ADAPTER_FILE, TEXT_ADAPTERS
from ..training.checks import check_learning
from .models import Parts

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .batches import Batch
    from .conditioning import Conditioning, LateConditioning
    from .settings import UnetSettings

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Of CLIP's layers; diffusers' and kohya's names for what they train there."""


@dataclass(frozen=True)
class Adapters:
    """All that a run trains."""

    unet: ResLoRAAdapter
    text: Mapping[str, ResLoRAAdapter] = field(default_factory=dict)
    """By the component's name in a pipeline."""

    @property
    def by_component(self) -> dict[str, ResLoRAAdapter]:
        """The U-Net's first."""
        return {UNET: self.unet, **self.text}

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that trains: the U-Net's first."""
        for adapter in self.by_component.values():
            yield from adapter.parameters()

    def text_parameters(self) -> list[nn.Parameter]:
        """Those of the text encoders."""
        return [parameter for adapter in self.text.values() for parameter in adapter.parameters()]

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(adapter.num_parameters() for adapter in self.by_component.values())

    def summary(self) -> str:
        """How many blocks each has, and how many have a path."""
        of_text = (f"{component}: {one.link_plan().summary()}" for component, one in self.text.items())
        return "; ".join([self.unet.link_plan().summary(), *of_text])

    def check_learning(self, step: int) -> None:
        """Raises `RuntimeError` where a block of any component hasn't moved."""
        for adapter in self.by_component.values():
            check_learning(adapter, step)

    def share_gradients(self, accelerator: Accelerator) -> None:
        """Makes the text encoders' gradients the mean of all processes. DDP does so for the U-Net, which it wraps."""
        if accelerator.num_processes > 1:
            for parameter in self.text_parameters():
                parameter.grad = accelerator.reduce(parameter.grad, "mean")

    def share_start(self) -> None:
        """Gives the text encoders' blocks the first process's values: each one started on captions of its own.

        DDP does so for the U-Net, which it wraps.
        """
        for adapter in self.text.values():
            for _, value in (*adapter.named_parameters(), *adapter.named_maps()):
                if value is not None:
                    value.data.copy_(broadcast(value.data))

    def save(self, folder: Path) -> None:
        """Writes the training forms into a folder; text encoders' modules have the names that LoRA files give them."""
        self.unet.save(folder / _file_of(UNET))
        for component, adapter in self.text.items():
            state = {in_files(name): value for name, value in adapter.state_dict().items()}
            adapter.save(folder / _file_of(component), state)

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: as `load_adapter_state`.
        """
        states = {
            component: load_adapter_state(folder / _file_of(component), adapter.config)
            for component, adapter in self.by_component.items()
        }
        for component, adapter in self.by_component.items():
            adapter.load_state_dict(states[component], str(folder))

    def remove(self) -> None:
        """Gives the models back as they were."""
        for adapter in self.by_component.values():
            adapter.remove()

    def statistics(
        self, batches: Iterable[Batch], forward: Callable[[Batch], object], others: Iterable[LateConditioning]
    ) -> dict[str, Statistics]:
        """What merging needs of every component; text encoders are run on other texts, too.

        All tokens of a text count, those after its end too: the U-Net reads them.

        Args:
            batches: each is drawn when the U-Net is to see it.
            forward: runs the U-Net on a batch.
            others: what text encoders see before the batches' captions: `other_texts`.
        """
        texts: list[Conditioning | LateConditioning] = list(others)

        def keeping_texts() -> Iterator[Batch]:
            for batch in batches:
                texts.append(batch.conditioning)
                yield batch

        found = {UNET: collect_statistics(self.unet, keeping_texts() if self.text else batches, forward)}
        for component, adapter in self.text.items():
            found[component] = collect_statistics(adapter, texts, lambda text: text.arguments())
        return found

    def merge(
        self,
        approach: str,
        statistics: Mapping[str, Statistics] | None = None,
        rank: int | None = None,
        alpha_from: str = "weights",
    ) -> PlainLoRA:
        """One LoRA of all components, merged by one approach. Arguments as of `merging.merge.merge`.

        Raises:
            ValueError: as there.
        """
        known = statistics or {}
        plains = {
            component: merge(adapter, approach, known.get(component), rank=rank, alpha_from=alpha_from)
            for component, adapter in self.by_component.items()
        }
        text = {component: plains[component] for component in self.text}
        return replace(
            plains[UNET],
            text_encoders={
                component: {in_files(path): block for path, block in plain.blocks.items()}
                for component, plain in text.items()
            },
            text_reports={
                component: {in_files(path): report for path, report in plain.reports.items()}
                for component, plain in text.items()
            },
        )


def in_files(path: str) -> str:
    """What LoRA files call a text encoder's module, whatever this version of transformers does."""
    return f"text_model.{path.removeprefix('text_model.')}"


def path_in(model: nn.Module, path: str) -> str:
    """The reverse: what this version of transformers calls it; an unknown path stays as it is."""
    short = path.removeprefix("text_model.")
    names = {name for name, _ in model.named_modules()}
    return short if path not in names and short in names else path


def add_adapters(parts: Parts, settings: UnetSettings, distributed: str = "NO") -> Adapters:
    """Puts the adapters of a run into its models, new, and turns gradient checkpointing on where that is asked for.

    Text encoders that train are in train mode, in which CLIP has no dropout but that of the blocks.

    The U-Net's values are drawn first, and are the same whether text encoders are trained or not.

    Args:
        distributed: accelerate's word for how processes share the training.

    Raises:
        ValueError: as `add_reslora`; or text encoders can't be trained that way, or one has no layer to train.
    """
    if settings.method.train_text_encoder and distributed in ("DEEPSPEED", "FSDP"):
        raise ValueError(
            f"--train_text_encoder under {distributed}, which shares one model out and not several. Launch without it, "
            "or leave --train_text_encoder out."
        )
    config, checkpointing = settings.method.adapter(), settings.training.gradient_checkpointing
    unet = add_reslora(parts.unet, config)
    if checkpointing:
        parts.unet.enable_gradient_checkpointing()
    text = {}
    if settings.method.train_text_encoder:
        parts.adapted_text = True
        for component, encoder in parts.text_encoders.items():
            text[component] = add_reslora(encoder.train(), _text_config(config, parts, component))
            if checkpointing:
                encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs())
    return Adapters(unet, text)


def _text_config(config: ResLoRAConfig, parts: Parts, component: str) -> ResLoRAConfig:
    """The U-Net's settings with CLIP's attention in the place of its own.

    SDXL reads both encoders' last layer but one, and of the second also what the last one makes: the first one's last
    layer would never learn, and gets no blocks.
    """
    targets: tuple[str, ...] | str = TEXT_TARGETS
    if component == TEXT_ENCODER and parts.text_encoder_2 is not None:
        used = range(parts.text_encoder.config.num_hidden_layers - 1)
        if not used:
            raise ValueError(
                f"The first text encoder of {parts.name} has one layer, which SDXL doesn't read. Leave out "
                "--train_text_encoder."
            )
        targets = rf".*layers\.({'|'.join(map(str, used))})\.self_attn\.({'|'.join(TEXT_TARGETS)})"
    return replace(config, target_modules=targets, link="neighbour", across_attention=False)


def load_adapters(parts: Parts, file: Path) -> Adapters:
    """Puts a run's adapters into models that have none.

    Args:
        file: the U-Net's training form; those of text encoders lie beside it.

    Raises:
        FileNotFoundError, ValueError: as `load_reslora`, or a text encoder's form is of another model.
    """
    files = text_adapter_files(file)
    strange = files.keys() - parts.text_encoders.keys()
    if strange:
        raise ValueError(f"{files[min(strange)]} is of a text encoder that {parts.name} doesn't have.")
    unet = load_reslora(parts.unet, file)
    text: dict[str, ResLoRAAdapter] = {}
    try:
        for component, form in files.items():
            text[component] = load_reslora(parts.text_encoders[component], form)
    except BaseException:
        Adapters(unet, text).remove()
        raise
    parts.adapted_text = parts.adapted_text or bool(text)
    return Adapters(unet, text)


def text_adapter_files(file: Path) -> dict[str, Path]:
    """The training forms of text encoders beside a U-Net's, by component; none for a run that trained none."""
    found = {component: file.with_name(name) for component, name in TEXT_ADAPTERS.items()}
    return {component: path for component, path in found.items() if file.name == ADAPTER_FILE and path.is_file()}


def _file_of(component: str) -> str:
    return ADAPTER_FILE if component == UNET else TEXT_ADAPTERS[component]


@contextmanager
def applied_to(plain: PlainLoRA, parts: Parts) -> Iterator[None]:
    """Within it, the parts' U-Net and text encoders act as with `plain` fused; their own branches rest.

    Raises:
        ValueError: as `merging.applied.applied`.
    """
    with ExitStack() as stack:
        for component, lora in plain.by_component().items():
            model = parts.unet if component == UNET else parts.text_encoders.get(component)
            if model is None:
                raise ValueError(f"This LoRA is also of {component}, which {parts.name} doesn't have.")
            stack.enter_context(applied(lora, model))
        yield


def with_own_encoders(parts: Parts) -> Parts:
    """The same with text encoders of its own modules around the same weights; it costs no memory."""

    def own(encoder: Any) -> Any:
        shared: list[Tensor] = [*encoder.parameters(), *encoder.buffers()]
        return copy.deepcopy(encoder, {id(tensor): tensor for tensor in shared})

    second = parts.text_encoder_2
    return replace(parts, text_encoder=own(parts.text_encoder), text_encoder_2=None if second is None else own(second))
