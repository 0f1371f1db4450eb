"""A figure whose axes stay while its lines move: the fast half of the widgets.

A full redraw of a matplotlib figure takes about 50 ms, most of it for axes and text that have not changed. `Live` draws
those once, keeps the pixels, and on each update puts only the moved lines over them (blitting). It redraws in full when
a limit changes, and rounds limits up so that this is rare. It knows no widget: arrays in, PNG bytes out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from infalign_edu.plots import figure, style

COLUMNS = 3  # of a legend


@dataclass(frozen=True)
class Panel:
    """Axes of a live figure: labels with units, limits (None on top: grows with the data), and the series it can show.

    A series whose name ends in "·" is drawn as points, one that ends in "|" as a vertical line at its x.
    """

    x: str
    y: str
    series: Sequence[str]
    title: str = ""
    xlim: tuple[float, float | None] = (0.0, 1.0)
    ylim: tuple[float, float | None] = (0.0, 1.0)
    looks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Live:
    """A figure of fixed panels that turns new curves into a PNG.

    Shape: update takes one mapping a panel, series name -> (x [n], y [n]); a series that is left out is not shown.
    Raises: KeyError for a series that its panel does not have, ValueError for lengths that differ.

    >>> live = Live([Panel("u", "density", ["policy"])])
    >>> live.update([{"policy": ([0.0, 1.0], [0.2, 0.8])}])[1:4]
    b'PNG'
    """

    def __init__(self, panels: Sequence[Panel], *, width: float = 4.4, height: float = 3.3) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.panels = list(panels)
        self.fig, self.axes = figure(len(self.panels), width=width, height=height)
        self.canvas = FigureCanvasAgg(self.fig)
        self.full_redraws = 0
        self._limits: list[tuple[float, float]] = []
        self._lines = [self._make(ax, panel) for ax, panel in zip(self.axes, self.panels, strict=True)]
        named = [len([s for s in panel.series if not s.startswith("_")]) for panel in self.panels]
        rows = max(math.ceil(count / COLUMNS) if count > 1 else 0 for count in named)
        self.fig.set_layout_engine("constrained", rect=(0, 0, 1, 1 - (0.18 * rows + 0.05) / height))
        self._fit([{} for _ in self.panels])

    @staticmethod
    def _make(ax: Any, panel: Panel) -> dict[str, Any]:
        made = {}
        for i, name in enumerate(panel.series):
            look = {**style(name.rstrip("·|"), i), "linewidth": 1.8, **panel.looks.get(name, {})}
            if name.endswith("·"):
                look |= {"linestyle": "none", "markersize": look.get("markersize", 6)}
            else:
                look["marker"] = look["marker"] if "marker" in panel.looks.get(name, {}) else None
            made[name] = ax.plot([], [], label=name.rstrip("·|"), animated=True, **look)[0]
        ax.set(xlabel=panel.x, ylabel=panel.y, title=panel.title, xlim=_range(panel.xlim), ylim=_range(panel.ylim))
        if len(panel.series) > 1:
            legend = ax.legend(
                frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncol=COLUMNS, handlelength=3
            )
            legend.set_in_layout(False)  # it has its own space above; else one that is too wide shrinks the axes
        return made

    def update(self, curves: Sequence[Mapping[str, tuple[ArrayLike, ArrayLike]]]) -> bytes:
        """The picture with these curves on it, as a PNG file."""
        data = [{name: _points(name, *xy) for name, xy in panel.items()} for panel in curves]
        self._fit(data)
        self.canvas.restore_region(self._background)
        for ax, panel, lines, shown in zip(self.axes, self.panels, self._lines, data, strict=True):
            if unknown := set(shown) - set(lines):
                raise KeyError(f"series must be one of {list(lines)}, got {sorted(unknown)}")
            for name in panel.series:
                if name not in shown:
                    continue
                x, y = shown[name]
                if name.endswith("|"):
                    x, y = np.repeat(x, 2)[:2], np.array(ax.get_ylim())
                lines[name].set_data(x, y)
                ax.draw_artist(lines[name])
        return self._png()

    def _fit(self, data: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> None:
        """Draws axes and text again if a limit that follows the data has changed."""
        limits = []
        for panel, shown in zip(self.panels, data, strict=True):
            kept = {name: xy for name, xy in shown.items() if not name.endswith("|")}
            for axis, lim in enumerate((panel.xlim, panel.ylim)):
                values = np.concatenate([np.atleast_1d(xy[axis]) for xy in kept.values()] or [np.zeros(0)])
                limits.append(_range(lim, values))
        if limits == self._limits:
            return
        self._limits = limits
        for ax, xlim, ylim in zip(self.axes, limits[::2], limits[1::2], strict=True):
            ax.set(xlim=xlim, ylim=ylim)
        self.canvas.draw()
        self._background = self.canvas.copy_from_bbox(self.fig.bbox)
        self.full_redraws += 1

    def _png(self) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        drawn = self.canvas.buffer_rgba()
        height, width = drawn.shape[:2]
        pixels = Image.frombuffer("RGBA", (width, height), drawn, "raw", "RGBA", 0, 1).convert("RGB")
        pixels = pixels.quantize(64, method=Image.Quantize.FASTOCTREE)  # a third of the bytes for kernel and browser
        pixels.save(buffer, "PNG", compress_level=1, compress_type=3)  # run lengths: quicker to find
        return buffer.getvalue()


def _points(name: str, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    if xs.shape != ys.shape:
        raise ValueError(f"series {name!r} must have as many x as y, got {xs.shape} and {ys.shape}")
    return xs, ys


def _range(lim: tuple[float, float | None], values: np.ndarray | None = None) -> tuple[float, float]:
    """The limits, an open top rounded up to 1, 1.5, 2, 3, 5 or 7 times a power of ten above the data.

    >>> _range((0.0, None), np.array([0.2, 4.1]))
    (0.0, 5.0)
    """
    low, high = lim
    if high is not None:
        return low, high
    finite = values[np.isfinite(values)] if values is not None else np.zeros(0)
    reach = max(float(finite.max()) if finite.size else 1.0, low + 1e-9, 1e-9)
    scale = 10.0 ** math.floor(math.log10(reach))
    return low, next(step * scale for step in (1, 1.5, 2, 3, 5, 7, 10, 15) if step * scale >= reach * (1 - 1e-12))
