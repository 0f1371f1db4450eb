"""The shell that every explorer shares: controls above, a picture, its numbers in words, and a place for errors.

An explorer has three parts that do not know each other: a pure function from the controls' values to data, a pure
function from data to a PNG (`plots.live`), and this shell around them. A callback that raises says so under the
picture: Jupyter shows such an error nowhere in the page. Only widgets of ipywidgets itself are used, so that nothing
has to be installed beside it. The picture has its text under it, in a region that screen readers announce.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import ipywidgets as widgets

Data = TypeVar("Data")
WIDE = widgets.Layout(width="420px")
LABEL = {"description_width": "150px"}


class Explorer(Generic[Data]):
    """Controls, a picture of what `compute` makes of them, and the same in words.

    A subclass fills `controls` (name -> widget with a `value`), then calls `super().__init__`; it defines `compute`,
    `draw` and `describe`. Every change of a control runs the three in this order. `title` is its heading.

    >>> class Square(Explorer[float]):
    ...     title = "Square"
    ...     def __init__(self): super().__init__({"x": slider("x", 2.0, 0.0, 9.0, 1.0, "side length")})
    ...     def compute(self, x): return x * x
    ...     def draw(self, data): return b""
    ...     def describe(self, data): return f"area {data:g}"
    >>> square = Square()
    >>> square.controls["x"].value = 3.0
    >>> square.text
    'area 9'
    """

    title = ""

    def __init__(self, controls: Mapping[str, Any], extra: tuple[widgets.Widget, ...] = ()) -> None:
        self.controls = dict(controls)
        self.data: Data | None = None
        self.text = ""
        self.error: Exception | None = None
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", object_fit="contain"))
        self.numbers, self.message = widgets.HTML(), widgets.HTML()
        heading = widgets.HTML(f"<h3>{html.escape(self.title)}</h3>")
        row = widgets.Box(list(self.controls.values()), layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([heading, row, *extra, self.image, self.numbers, self.message])
        self.box.add_class("infalign-explorer")
        for control in self.controls.values():
            if "value" in control.traits():
                control.observe(self.guarded(lambda change: self.refresh()), "value")
        self.guarded(self.refresh)()

    def values(self) -> dict[str, Any]:
        """What the controls say now, by name."""
        return {name: control.value for name, control in self.controls.items() if "value" in control.traits()}

    def refresh(self) -> None:
        """Computes, draws and describes again. Raises: whatever `compute` raises; the widgets' callbacks show it."""
        self.show(self.compute(**self.values()))

    def show(self, data: Data) -> None:
        """Puts data on the page: picture and words."""
        picture, text = self.draw(data), self.describe(data)
        self.data, self.text = data, text
        self.image.value = picture
        self.numbers.value = f'<div role="status" aria-live="polite" class="infalign-numbers">{html.escape(text)}</div>'

    def guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback, with its exceptions shown to the learner in one line under the picture, which stays."""

        def run(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:  # a page that silently stops answering is the worst of all errors
                self.complain(error)
            else:
                self.error, self.message.value = None, ""

        return run

    def complain(self, error: Exception) -> None:
        """Shows an error to the learner, for work that no control has started."""
        self.error = error
        says = html.escape(f"{type(error).__name__}: {error}")
        self.message.value = f'<div role="alert" style="color:#a3000b"><b>This did not work.</b> {says}</div>'

    def compute(self, *_: Any, **values: Any) -> Data:  # any signature may take its place
        raise NotImplementedError

    def draw(self, data: Data) -> bytes:
        raise NotImplementedError

    def describe(self, data: Data) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widgets, and the same as a still picture with alternative text for a page without a kernel."""
        still = base64.b64encode(self.image.value).decode()
        return {**self.box._repr_mimebundle_(), "image/png": still}, {"image/png": {"alt": self.text}}


def slider(label: str, value: float, low: float, high: float, step: float, says: str) -> widgets.FloatSlider:
    """A labelled slider that reports while it moves; `says` is its tooltip."""
    return widgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=label, tooltip=says, style=LABEL, layout=WIDE
    )


def whole(label: str, value: int, low: int, high: int, says: str) -> widgets.IntSlider:
    """A labelled slider of whole numbers."""
    return widgets.IntSlider(value=value, min=low, max=high, description=label, tooltip=says, style=LABEL, layout=WIDE)


def choice(label: str, options: Sequence[str | tuple[str, str]], value: str, says: str) -> widgets.SelectionSlider:
    """A labelled slider over names: JupyterLab takes a drop-down list's arrow keys for itself, and a slider's not."""
    return widgets.SelectionSlider(
        options=options, value=value, description=label, tooltip=says, style=LABEL, layout=WIDE
    )
