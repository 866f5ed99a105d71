"""Menus, ticks and sliders whose value may be one that the server doesn't offer (any more)."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import Any

import gradio as gr


def _choice(_self: object, payload: Any) -> Any:
    """What was chosen, in the list or not; nothing where it is no text and no number."""
    return payload if isinstance(payload, str | int | float) else None


def _choices(_self: object, payload: Any) -> list[Any]:
    found = payload if isinstance(payload, list) else []
    return [one for one in found if isinstance(one, str | int | float)]


def _place(self: Any, payload: Any) -> float:
    """At least the least; what comes after the last place is for the reader of the list to take back."""
    number = payload if isinstance(payload, int | float) and not isinstance(payload, bool) else self.minimum
    return float(max(self.minimum, number))


def _unchecked(kind: type[Any], preprocess: Callable[..., Any]) -> Any:
    """The component with our own reading of what a browser sends.

    Gradio's own raises an error that is shown as it is ("Value: lora is not in the list of choices: []") whenever a
    browser and the server disagree for a moment: a run was deleted, two changes crossed, the session is an hour old.
    The functions of the page look up what they get, and go on with the nearest that there is.
    """
    # ABCMeta's, because that of Gradio's own metaclass writes a .pyi file beside this one
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), {"preprocess": preprocess, "__module__": __name__})


Menu = _unchecked(gr.Dropdown, _choice)
Ticks = _unchecked(gr.CheckboxGroup, _choices)
Places = _unchecked(gr.Slider, _place)
