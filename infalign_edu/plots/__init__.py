"""NumPy in, figure out: one look for reports, notebooks and widgets.

Matplotlib is imported when a figure is made and its object-oriented side alone is used, so that no backend is chosen
and no figure is kept alive. Every series has a colour that is told apart under colour blindness *and* a line style and
marker of its own (`palette`); every figure carries its alternative text in `figure.alt_text`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from infalign_edu.plots.palette import BAR, LEGEND, PALETTE, looks, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CALIBRATED",
    "KL",
    "PALETTE",
    "alt_text",
    "density",
    "figure",
    "forest",
    "html_image",
    "lines",
    "looks",
    "png",
    "show",
    "style",
    "with_alt",
]

# Names of values that axes speak of, with their units.
KL = "KL(policy || reference)  [nats]"
CALIBRATED = "calibrated reward u  [quantile under the reference]"


def figure(columns: int = 1, *, width: float = 5.2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """An empty figure with axes side by side, sized in inches.

    >>> fig, axes = figure(2)
    >>> len(axes)
    2
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width * columns, height), layout="constrained", dpi=100)
    axes = [fig.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    return fig, axes


def lines(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x: str,
    y: str,
    title: str = "",
    points: Mapping[str, Sequence[ArrayLike]] | None = None,
    alt: str,
    ax: Axes | None = None,
) -> Figure:
    """Named curves and measured points on shared axes.

    A point is (x, y) or (x, y, half width of its 95 % interval), or an array of each for several points; it takes the
    look of the curve of the same name.

    Shape: curves name -> (x [n], y [n]), points name -> numbers or [m]. Raises: ValueError without alternative text or
    without the name of an axis.

    >>> fig = lines({"identity": ([0, 1], [0.5, 0.8])}, x=KL, y="win rate", alt="One rising curve.")
    >>> fig.alt_text
    'One rising curve.'
    """
    if not (x.strip() and y.strip()):
        raise ValueError(f"x and y must name what the axes show, with units, got {x!r} and {y!r}")
    fig = ax.figure if ax is not None else None
    if ax is None:
        fig, (ax,) = figure()
    look_of = looks([*curves, *(points or {})])
    for name, (xs, ys) in curves.items():
        look = look_of[name]
        ax.plot(np.asarray(xs), np.asarray(ys), color=look["color"], linestyle=look["linestyle"], label=name)
    for name, point in (points or {}).items():
        look, half = look_of[name], point[2] if len(point) > 2 else 0.0
        label = None if name in curves else name
        ax.errorbar(
            point[0], point[1], yerr=half, fmt=look["marker"], color=look["color"], capsize=3, markersize=6, label=label
        )
    ax.set(xlabel=x, ylabel=y, title=title)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(**LEGEND)
    return with_alt(fig, alt)


def forest(
    panels: Mapping[str, Mapping[str, Sequence[ArrayLike]]], lines: Sequence[str], *, x: str, alt: str
) -> Figure:
    """Differences with their intervals: panels side by side, lines named at the left, series of a line one by one.

    Shape: panels title -> series -> (line [m], difference [m], low [m], high [m]), or with a fifth array, what theory
    expects, drawn as crosses; lines count from 0, the top one. Raises: ValueError for a line without a name.

    >>> fig = forest({"by gold": {"KL 0.4": ([0], [2.0], [1.0], [3.0])}}, ["a over b"], x="points", alt="One bar.")
    >>> fig.axes[0].get_yticklabels()[0].get_text()
    'a over b'
    """
    fig, axes = figure(len(panels), width=5.4, height=1.2 + 0.34 * len(lines))
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    look_of, apart = looks(names), min(0.32, 0.8 / max(1, len(names)))
    for (title, panel), ax in zip(panels.items(), axes, strict=True):
        for name, given in panel.items():
            place, middle, low, high, *expected = (np.asarray(values, dtype=float) for values in given)
            if np.any((place < 0) | (place >= len(lines))):
                raise ValueError(f"lines must name line {place.max():g} of {name!r} too, got {len(lines)} names")
            y, look = -place - apart * (names.index(name) - (len(names) - 1) / 2), look_of[name]
            point = {"fmt": look["marker"], "color": look["color"], "capsize": 2, "markersize": 4}
            ax.errorbar(middle, y, xerr=[middle - low, high - middle], label=name, **point)
            for values in expected:
                label = "theory" if name == next(iter(panel)) else None
                ax.plot(values, y, "x", color=PALETTE[6], markersize=5, label=label)
        ax.axvline(0, color=PALETTE[6], linewidth=0.8)
        ax.set_yticks([-i for i in range(len(lines))], lines if ax is axes[0] else [""] * len(lines), fontsize=7)
        ax.set(xlabel=x, title=title, ylim=(0.4 - len(lines), 0.6))
        ax.legend(fontsize=8)
    limits = np.array([ax.get_xlim() for ax in axes])
    for ax in axes:  # one scale for all panels: they are there to be compared
        ax.set_xlim(limits.min(), limits.max())
    return with_alt(fig, alt)


def density(
    u: ArrayLike, curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, measured: str, title: str = "", alt: str
) -> Figure:
    """Histogram of calibrated rewards under a policy, with theoretical densities over it.

    Shape: u any, in [0, 1]; curves name -> (u [n], density [n]).

    >>> fig = density(np.linspace(0, 1, 100), {}, measured="reference", alt="A flat histogram.")
    >>> len(fig.axes)
    1
    """
    fig, (ax,) = figure()
    edges = np.linspace(0, 1, 21).tolist()
    heights, _, _ = ax.hist(np.ravel(u), bins=edges, density=True, label=measured, **BAR)
    look_of = looks(curves)
    for name, (xs, ys) in curves.items():
        look = look_of[name]
        ax.plot(np.asarray(xs), np.asarray(ys), color=look["color"], linestyle=look["linestyle"], label=name)
    top = max([float(np.max(heights)), *(float(np.max(ys)) for _, ys in curves.values())])
    room = 1 + 0.08 * (2 + len(curves))  # for the legend, above the bars
    ax.set(xlabel=CALIBRATED, ylabel="density", title=title, xlim=(0, 1), ylim=(0, room * top))
    ax.legend(**LEGEND, loc="upper left")
    return with_alt(fig, alt)


def with_alt(fig: Any, alt: str) -> Figure:
    """The figure with its alternative text. Raises: ValueError when the text is empty."""
    fig.alt_text = alt
    alt_text(fig)
    return fig


def alt_text(fig: Any) -> str:
    """The alternative text of a figure. Raises: ValueError when it has none.

    >>> alt_text(with_alt(figure()[0], "Empty axes."))
    'Empty axes.'
    """
    text = str(getattr(fig, "alt_text", ""))
    if not text.strip():
        raise ValueError("alt must describe the figure for those who can't see it, got an empty text")
    return text


def png(fig: Figure) -> bytes:
    """The figure as a PNG file.

    >>> png(figure()[0])[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def html_image(fig: Figure) -> str:
    """The figure as an HTML <img> that needs no other file, with its alternative text.

    >>> html_image(with_alt(figure()[0], "Empty axes."))[:25]
    '<img alt="Empty axes." sr'
    """
    import html

    alt = html.escape(alt_text(fig))
    data = base64.b64encode(png(fig)).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'


def show(fig: Figure) -> None:
    """Shows the figure in a notebook, as an image with its alternative text.

    JupyterLab leaves the text of an image out, so it stands beside it once more, for screen readers only.
    """
    import html

    from IPython.display import HTML, Image, display

    says = alt_text(fig)
    display(Image(data=png(fig), format="png", alt=says))
    unseen = "position:absolute;width:1px;height:1px;overflow:hidden"
    display(HTML(f'<div class="figure-text" style="{unseen}">Figure: {html.escape(says)}</div>'))
