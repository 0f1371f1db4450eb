import numpy as np
import pytest

from infalign_edu import plots


def test_no_figure_without_alternative_text():
    with pytest.raises(ValueError, match="alt must describe the figure"):
        plots.lines({}, x="x", y="y", alt=" ")


def test_a_transform_looks_the_same_wherever_it_stands():
    assert plots.style("exp:10", 0) == plots.style("exp:10", 5) and plots.style("identity")["color"] == plots.PALETTE[0]
    looks = [plots.style(name) for name in ("identity", "exp:10", "log", "power:3", "optimal")]
    assert len({look["color"] for look in looks}) == len({str(look["linestyle"]) for look in looks}) == 5


def test_what_is_drawn_is_what_was_given():
    fig = plots.lines({"identity": ([0, 1], [0.5, 0.8])}, x=plots.KL, y="W", points={"identity": (0.5, 0.7, 0.02)}, alt="a")
    (ax,) = fig.axes
    assert ax.lines[0].get_ydata().tolist() == [0.5, 0.8] and ax.get_xlabel() == plots.KL
    bars = ax.containers[0]
    assert bars[0].get_xdata().tolist() == [0.5] and bars[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([0.68, 0.72])


def test_several_points_of_one_series_keep_their_own_intervals():
    fig = plots.lines({}, x="x", y="y", points={"measured": ([1, 2, 3], [0.5, 0.6, 0.7], [0.1, 0.2, 0.3])}, alt="a")
    bars = fig.axes[0].containers[0]
    assert bars[0].get_ydata().tolist() == [0.5, 0.6, 0.7] and len(fig.axes[0].get_legend().get_texts()) == 1
    assert [float(np.ptp(s[:, 1])) for s in bars[2][0].get_segments()] == pytest.approx([0.2, 0.4, 0.6])


def test_density_is_normalised():
    fig = plots.density(np.random.default_rng(0).random(5000), {}, measured="policy", alt="a")
    areas = [bar.get_width() * bar.get_height() for bar in fig.axes[0].patches]
    assert sum(areas) == pytest.approx(1) and len(areas) == 20


def test_html_image_escapes_and_needs_no_other_file():
    text = plots.html_image(plots.with_alt(plots.figure()[0], 'a "quoted" <text>'))
    assert 'alt="a &quot;quoted&quot; &lt;text&gt;"' in text and 'src="data:image/png;base64,' in text


def test_same_figure_same_bytes():
    one, two = (plots.png(plots.lines({"a": ([0, 1], [1, 2])}, x="x", y="y", alt="a")) for _ in range(2))
    assert one == two


def contrast_under_deuteranopia(a, b):
    """Distance of two colours after the red-green part is taken away (Vienot, Brettel and Mollon 1999)."""
    simulate = np.array([[0.29031, 0.70969, 0.0], [0.29031, 0.70969, 0.0], [-0.02197, 0.02197, 1.0]])
    rgb = [(np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255) ** 2.2 for c in (a, b)]
    seen = [(simulate @ colour).clip(0, 1) ** (1 / 2.2) for colour in rgb]
    return float(np.linalg.norm(seen[0] - seen[1]))


def test_palette_is_told_apart_under_deuteranopia():
    first = plots.PALETTE[:5]
    assert min(contrast_under_deuteranopia(a, b) for i, a in enumerate(first) for b in first[i + 1 :]) > 0.1
