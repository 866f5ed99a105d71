"""What all tabs know: the runs, where to put pictures for the browser, and how text from files gets into a page."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from reslora_sd.runs.run import Run, is_text

from ..library import Library, key_of
from ..limits import Limits, TooSlowError
from ..passing import Passing
from ..pictures import store
from ..visits import Visits

if TYPE_CHECKING:
    from ..generator import PictureGenerator

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""For events of the page alone: no public API, no spinner over what is shown."""
FOLLOW: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}
"""For what follows a choice. By itself Gradio drops a choice that is made while the one before is being answered: on a
busy machine the grid stayed empty, because its tab's opening was dropped."""


@dataclass
class Page:
    """One server's runs and folders."""

    library: Library
    cache: Path
    """Where pictures are put for the browser; the run folders themselves are not served."""
    trainings: Path
    """Where trainings that the page starts put their runs."""
    allowed: Sequence[Path] = ()
    """Folders that run.json may name, and whose pictures can be trained on."""
    local: bool = True
    """Whether only this machine reaches the page; then a typed path may be any that the user can read."""
    loras: Path | None = None
    """A folder of LoRA files made elsewhere, for Try it."""
    stop_events: dict[str, dict[str, threading.Event]] = field(default_factory=dict)
    """By session and ticket: set when nobody wants that drawing any more."""
    passing: Passing = field(init=False)
    """For what is made for one look or download."""
    visits: Visits = field(init=False)
    """What is the same for all who look."""
    limits: Limits = field(default_factory=Limits)
    """For the tabs."""
    opening: Limits = field(default_factory=Limits)
    """For what is above them: slow tabs of one visitor don't keep another from opening the page."""
    _generator: PictureGenerator | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.passing = Passing(self.cache)
        seen = Passing(self.cache)  # a run can have more pictures than the disk has room; they are made again
        self.visits = Visits(self.library, lambda image: seen.keep(store(image, self.cache / "seen", "picture")))

    def runs(self, names: Sequence[str] | None) -> dict[str, Run]:
        """The chosen runs, in the order of the list."""
        return self.library.get(names or [])

    def drawing(self, keys: Sequence[str] | None) -> dict[str, Run]:
        """The chosen runs without text runs, which draw nothing."""
        return {name: run for name, run in self.runs(keys).items() if not is_text(run.settings)}

    def keyed(self, keys: Sequence[str] | None) -> dict[str, Run]:
        """The chosen runs by their keys."""
        return {key_of(run.path): run for run in self.runs(keys).values()}

    def choices(self, keys: Sequence[str] | None = None) -> list[tuple[str, str]]:
        """What a menu offers: names that are shown, with the keys that stand for them; of all runs by default."""
        return [(name, key) for key, name in self.library.keys().items() if keys is None or key in keys]

    def shown(self, *keys: str | None) -> list[str | None]:
        """The names of runs by their keys; `None` for one that isn't there (any more)."""
        known = self.library.keys()
        names = set(known.values())
        return [known.get(key or "", key if key in names else None) for key in keys]

    def limited(
        self, what: str, draw: Callable[..., Any], outputs: int, limits: Limits | None = None
    ) -> Callable[..., tuple[Any, ...]]:
        """The same view within the limit of time, with one more output: why it isn't shown; empty where it is.

        Args:
            limits: other ones than those of the tabs.
        """
        limits = limits or self.limits

        def drawn(*values: Any) -> tuple[Any, ...]:
            try:
                key = (draw, repr(values))  # other functions may get equal values
                found = limits.get(what, key, lambda: draw(*values), self.visits.state())
            except TooSlowError as error:
                return *[gr.skip()] * outputs, message(str(error), "bad")
            return *(found if outputs > 1 else [found]), ""

        drawn.__name__ = draw.__name__
        return drawn

    def generator(self) -> PictureGenerator:
        """Made at the first request: it needs torch, which takes seconds to load."""
        from ..generator import PictureGenerator

        with self._lock:
            if self._generator is None:
                self._generator = PictureGenerator([*self.allowed, *self.library.folders, self.trainings])
            return self._generator

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the model doesn't read; empty before it has drawn."""
        return self._generator.unread(prompt) if self._generator is not None else ""

    def file(self, image: Image.Image, name: str) -> str:
        """A PNG for the browser."""
        return str(store(image, self.cache, name))

    def passing_file(self, image: Image.Image, name: str) -> str:
        """The same for a picture that was just drawn or put together: it goes when many others have come."""
        return self.passing.keep(store(image, self.cache, name))


def menu(kind: Any, choices: Sequence[Any], value: Any, before: Any, **more: Any) -> Any:
    """The update of a menu. Its value is sent only where it changes: the user may have chosen again meanwhile."""
    return kind(choices=list(choices), **more) if value == before else kind(choices=list(choices), value=value, **more)


def message(text: str, tone: str = "note") -> str:
    """A paragraph of plain text; `tone` is note, good or bad."""
    role = ' role="alert"' if tone == "bad" else ""
    return f'<p class="say {tone}"{role}>{html.escape(text)}</p>' if text else ""


def warnings_and_notes(runs: Mapping[str, Run]) -> str:
    """Warnings in the open, and what is missing to unfold."""
    parts = []
    for name, run in runs.items():
        parts += [message(f"{name}: {warning}", "bad") for warning in run.warnings]
    notes = [(name, note) for name, run in runs.items() for note in run.notes]
    if notes:
        items = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(note)}</li>" for name, note in notes)
        some = f"{len(notes)} notes on what is missing or broken" if len(notes) > 1 else "One note on what is missing"
        parts.append(f'<details class="say note" open><summary>{some}</summary><ul>{items}</ul></details>')
    return "".join(parts)
