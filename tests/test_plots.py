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


def test_one_family_shares_its_colour_and_its_members_differ_in_line_and_marker():
    looks = [plots.style(name) for name in ("exp:10", "exp:5", "exp:-10", "exp:-5")]
    assert {look["color"] for look in looks} == {plots.style("exp")["color"]}
    assert len({str(look["linestyle"]) for look in looks}) == len({look["marker"] for look in looks}) == 4
    assert plots.style("optimal best-of-4") != plots.style("optimal worst-of-4")


def test_other_names_go_by_position_and_the_ninth_is_not_the_first_again():
    assert plots.style("policy", 2)["color"] == plots.PALETTE[2] == plots.style("policy", 10)["color"]
    assert plots.style("policy", 2)["linestyle"] != plots.style("policy", 10)["linestyle"]


def test_series_on_shared_axes_never_look_alike():
    names = ["policy", "exp:64", "identity", "exp:16", "reward", "exp:7.8", "exp:10", "log"]
    looks = plots.looks(names)
    assert list(looks) == names and len({str(look["linestyle"]) for look in looks.values()}) == 8
    assert all(looks[name] == plots.style(name) for name in ("identity", "exp:10", "log"))
    assert len({look["color"] for name, look in looks.items() if "exp" not in name}) == 4
    assert len(plots.looks(f"policy {i}" for i in range(12))) == 12


def test_a_point_without_a_curve_takes_a_look_that_no_curve_has():
    fig = plots.lines({"theory": ([0, 1], [0, 1])}, points={"theory": (0, 0), "measured": (1, 1)}, x="x", y="y", alt="a")
    curve, same, other = (line for line in fig.axes[0].lines if line.get_linestyle() != "None" or line.get_marker() in "os")
    assert curve.get_color() == same.get_color() == plots.PALETTE[0] and other.get_color() == plots.PALETTE[1]


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


def test_a_forest_puts_series_of_a_line_apart_and_panels_on_one_scale():
    panels = {"one": {"KL 0.4": ([0, 1], [2, -3], [1, -5], [4, -1], [3, -4]), "KL 0.8": ([1], [5], [4], [6], [7])},
              "two": {"KL 0.8": ([0], [1], [0], [2], [1])}}  # fmt: skip
    fig = plots.forest(panels, ["a over b", "c over d"], x="points", alt="a")
    one, two = fig.axes
    early, late = one.containers
    assert early[0].get_ydata().tolist() == pytest.approx([0.16, -0.84]) and late[0].get_ydata().tolist() == pytest.approx([-1.16])
    assert [s[:, 0].tolist() for s in early[2][0].get_segments()] == [[1, 4], [-5, -1]]
    crosses = [line for line in one.lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[3, -4], [7]] and crosses[0].get_ydata().tolist() == early[0].get_ydata().tolist()
    assert one.get_xlim() == two.get_xlim() and [t.get_text() for t in one.get_yticklabels()] == ["a over b", "c over d"]
    assert [t.get_text() for t in two.get_yticklabels()] == ["", ""] and two.containers[0][0].get_color() == late[0].get_color()  # a series looks the same in all panels
    assert sorted(text.get_text() for text in one.get_legend().get_texts()) == ["KL 0.4", "KL 0.8", "theory"]
    assert [text.get_text() for text in two.get_legend().get_texts()] == ["theory", "KL 0.8"]


def test_a_forest_without_a_name_for_a_line_is_refused():
    with pytest.raises(ValueError, match="lines must name line 2 of 'KL 0.4' too, got 2 names"):
        plots.forest({"one": {"KL 0.4": ([0, 2], [0, 0], [0, 0], [0, 0])}}, ["a", "b"], x="points", alt="a")
