"""What a reader who sees little, or sees colours otherwise, can count on: texts, labels, palette, length."""

import ast
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from infalign_edu import plots
from infalign_edu.plots.palette import BAR

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "notebooks", ROOT / "notebooks" / "key")
BOOKS = sorted(path for folder in FOLDERS for path in folder.glob("*.ipynb"))
NAMES = [str(path.relative_to(ROOT)) for path in BOOKS]
MODULES = [*sorted((ROOT / "infalign_edu").rglob("*.py")), *sorted((ROOT / "experiments").glob("*.py"))]

# Linear RGB as a deuteranope and a protanope see it, severity 1.0: Machado, Oliveira and Fernandes 2009, and, by another
# model, for deuteranopia: Vienot, Brettel and Mollon 1999.
SIGHT = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia, Vienot": [[0.29031, 0.70969, 0.0], [0.29031, 0.70969, 0.0], [-0.02197, 0.02197, 1.0]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
# What axes may show without a unit in brackets: probabilities, densities over [0, 1], counts, and a reward's own scale.
NO_UNIT = ("win rate", "standard win rate", "density", "step", "raw reward r", "largest error of the quantile",
           "mean squared error", "cumulative probability", "transform / its value at 1", "mean over the last 8 batches")  # fmt: skip


def linear(colour):
    """Linear RGB of "#rrggbb" (IEC 61966-2-1)."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB, white point D65."""
    ratio = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(a, b, sight="normal"):
    """CIE 1976 colour difference of two colours as someone sees them."""
    seen = [lab(np.array(SIGHT[sight]) @ linear(colour)) for colour in (a, b)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def contrast(a, b):
    """Contrast ratio of WCAG 2.2, 1 to 21."""
    light, dark = sorted((float(XYZ[1] @ linear(colour)) for colour in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_colour_arithmetic_on_values_that_are_known():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21) and contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)
    assert lab(linear("#FF0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    for matrix in SIGHT.values():
        assert np.array(matrix) @ [0.3, 0.3, 0.3] == pytest.approx([0.3] * 3, abs=1e-5)  # greys stay grey
    for sight in ("deuteranopia", "deuteranopia, Vienot"):
        assert difference("#2CA02C", "#D62728") > 100 > 25 > difference("#2CA02C", "#A5651E", sight)  # green and brown
    assert difference("#D55E00", "#999933", "deuteranopia") < 17  # two colours of an earlier palette would fail below


@pytest.mark.parametrize("sight, least", [(sight, 25 if sight == "normal" else 17) for sight in SIGHT])
def test_any_two_colours_of_the_palette_are_told_apart(sight, least):
    found = {pair: difference(*pair, sight) for pair in combinations(plots.PALETTE, 2)}
    assert len(found) == 28 and min(found.values()) > least, min(found.items(), key=lambda item: item[1])


def test_every_colour_stands_out_from_what_it_is_drawn_on():
    assert {colour: contrast(colour, "#FFFFFF") for colour in plots.PALETTE if contrast(colour, "#FFFFFF") < 3.3} == {}
    assert {colour: contrast(colour, BAR["color"]) for colour in plots.PALETTE if contrast(colour, BAR["color"]) < 3} == {}
    assert contrast(BAR["edgecolor"], "#FFFFFF") > 4.5 and contrast(BAR["edgecolor"], BAR["color"]) > 3


def test_bars_are_drawn_with_those_colours():
    (ax,) = plots.density(np.linspace(0, 1, 50), {}, measured="policy", alt="Flat.").axes
    from matplotlib.colors import to_hex

    assert {to_hex(bar.get_facecolor()) for bar in ax.patches} == {BAR["color"]}
    assert {to_hex(bar.get_edgecolor()) for bar in ax.patches} == {BAR["edgecolor"]}


@pytest.mark.parametrize("make", [
    lambda alt: plots.lines({}, x="x", y="y", alt=alt),
    lambda alt: plots.density([0.5], {}, measured="policy", alt=alt),
    lambda alt: plots.with_alt(plots.figure()[0], alt),
    lambda alt: plots.html_image(plots.figure()[0]),
    lambda alt: plots.show(plots.figure()[0]),
])  # fmt: skip
@pytest.mark.parametrize("alt", ["", " \n"])
def test_no_figure_is_made_or_shown_without_alternative_text(make, alt):
    with pytest.raises(ValueError, match="alt must describe the figure for those who can't see it, got an empty text"):
        make(alt)


@pytest.mark.parametrize("x, y", [("", "win rate"), ("step", " ")])
def test_no_axes_without_a_name(x, y):
    with pytest.raises(ValueError, match=f"x and y must name what the axes show, with units, got '{x}' and '{y}'"):
        plots.lines({"identity": ([0, 1], [0, 1])}, x=x, y=y, alt="A line.")


def literal(node):
    """What stands in a label's expression: its strings, the constants of `plots`, and {} for values put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    if isinstance(node, ast.Attribute):
        return getattr(plots, node.attr, "{}")
    return "{}"


def labels(source):
    """Labels of axes in calls that draw: x, y of `lines` and `Panel`, xlabel and ylabel of `set`; not those passed on."""
    for call in ast.walk(ast.parse(source)):
        name = getattr(getattr(call, "func", None), "attr", getattr(getattr(call, "func", None), "id", ""))
        if isinstance(call, ast.Call) and (name.endswith("lines") or name in ("Panel", "set")):
            given = dict(zip("xy", call.args, strict=False)) if name == "Panel" else {}
            given |= {keyword.arg: keyword.value for keyword in call.keywords}
            yield from (literal(given[key]) for key in ("x", "y", "xlabel", "ylabel") if key in given)


def without_unit(found):
    return [label for label in found if label != "{}" and "[" not in label and not label.startswith(NO_UNIT)]


def code(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    return [re.sub(r"(?m)^\s*[%!].*$", "", "".join(cell["source"])) for cell in cells]


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_axes_in_notebooks_carry_units(path):
    found = [label for source in code(path) for label in labels(source)]
    assert found and without_unit(found) == []


def test_axes_in_the_package_carry_units():
    found = [label for path in MODULES for label in labels(path.read_text(encoding="utf-8"))]
    assert len(found) >= 4 and without_unit(found) == []


def test_the_check_of_units_sees_a_label_without_one():
    source = "plots.lines(c, x='budget', y=f'win rate under {p}')\nax.set(xlabel='time [s]', ylabel='u')\nPanel(plots.KL, 'mass')"
    assert list(labels(source)) == ["budget", "win rate under {}", "time [s]", "u", plots.KL, "mass"]
    assert without_unit(labels(source)) == ["budget", "u", "mass"] and "[nats]" in plots.KL and "[" in plots.CALIBRATED


def figures(path):
    """(alternative text, text of the notebook's headings) of each saved figure."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    heads = [head.strip(" #*") for head in re.findall(r"(?m)^#+ .*$", text)]
    images = [out for cell in cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    return [(image["metadata"].get("image/png", {}).get("alt", ""), heads) for image in images]


def wanting(alt, heads):
    """What is wrong with an alternative text, or None."""
    if re.match(r"(?i)(an? |the )?(image|picture|figure|plot|chart|graph)\b", alt):
        return "says that it is a picture, which the reader's software says already"
    if len(alt.split()) < 12 or len(re.findall(r"[.:](\s|$)", alt)) < 1 or not alt.rstrip().endswith("."):
        return "is a title and no description"
    if any(alt.rstrip(".").lower() == head.lower() for head in heads):
        return "repeats a heading"
    if re.search(r"(?i)\b(blue|orange|green|red|pink|purple|brown|yellow)\b", alt):
        return "names a colour"
    return "has a gap where a number should be" if re.search(r"\bnan\b|\{|\}", alt) else None


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_alternative_texts_describe(path):
    assert [(alt, wanting(alt, heads)) for alt, heads in figures(path) if wanting(alt, heads)] == []


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.exists()], ids=lambda folder: folder.name)
def test_alternative_texts_are_those_of_their_figure_alone(folder):
    count = Counter(alt for path in sorted(folder.glob("*.ipynb")) for alt, _ in figures(path))
    assert count and [alt for alt, times in count.items() if times > 1] == []


@pytest.mark.parametrize("alt, wrong", [
    ("Plot of the win rate against KL. Identity lies below exp:10 everywhere, by three points at most.", "says that it is"),
    ("Win rate against KL", "is a title"),
    ("Win rate against KL for identity, exp:10, log, power and the best one there is", "is a title"),
    ("What a user sees of N answers and why it is not the same as what we train.", "repeats a heading"),
    ("Win rate against KL. The blue curve lies below the other one everywhere, by three points.", "names a colour"),
    ("Win rate against KL. Identity lies below exp:10 everywhere, by nan points at a KL of one half.", "has a gap"),
    ("Win rate against KL. Identity lies below exp:10 everywhere, by three points at a KL of one half.", None),
])  # fmt: skip
def test_the_check_of_texts_names_what_is_wrong(alt, wrong):
    found = wanting(alt, ["what a user sees of N answers and why it is not the same as what we train"])
    assert found is None if wrong is None else found.startswith(wrong)


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_notebooks_take_colours_from_the_palette_only(path):
    assert [found for source in code(path) for found in re.findall(r"#[0-9A-Fa-f]{6}\b|color=[\"'][^\"']*[\"']", source)] == []


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_a_notebook_is_one_sitting_long(path):
    assert 20 <= len(json.loads(path.read_text(encoding="utf-8"))["cells"]) <= 30


def test_a_figure_carries_its_text_to_the_page(monkeypatch):
    from IPython.core.formatters import DisplayFormatter

    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    plots.show(plots.with_alt(plots.figure()[0], "Empty axes."))
    data, metadata = DisplayFormatter().format(shown[0])
    assert "image/png" in data and metadata["image/png"]["alt"] == "Empty axes."
