"""What the README and the CSVs in data/ say is what the commands that made them would write."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def experiment(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(name):
    with (ROOT / "data" / "runs" / name).open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_readme_says_what_align_csv_says():
    align, readme = experiment("align"), (ROOT / "README.md").read_text(encoding="utf-8")
    assert align.claims(table("align.csv")) in readme
    assert "](data/figures/frontier.png)" in readme and (ROOT / "data" / "figures" / "frontier.png").is_file()


def test_the_readme_figure_is_drawn_in_the_palette_of_today():
    from matplotlib.colors import to_rgb
    from PIL import Image

    from infalign_edu.plots import style

    image = Image.open(ROOT / "data" / "figures" / "frontier.png").convert("RGB")
    shown = {colour for _, colour in image.getcolors(100_000)}
    for name in ("identity", "exp:10", "optimal"):
        assert tuple(round(255 * part) for part in to_rgb(style(name)["color"])) in shown, name


def test_align_csv_meets_what_the_course_promises():
    """The shipped default run: lift and gain shares, at a KL where theory has room for a difference."""
    identity, exp = table("align.csv")
    assert [identity["transform"], exp["transform"]] == ["identity", "exp:10"]
    for row in (identity, exp):
        assert 0.3 <= float(row["kl"]) <= 0.8 and float(row["lift_share"]) >= 0.7
        assert int(row["heldout_prompts"]) >= 200 and int(row["samples"]) >= 32
    assert float(exp["gain_share"]) >= 0.5 and float(exp["gain_share_low"]) > 0 and float(exp["gain_low"]) > 0


def test_rows_are_the_report():
    report = {
        "comparisons": [{"kl": 0.4, "difference": {"mean": 0.05, "interval": [0.03, 0.07]}, "theory_difference": 0.07,
                         "transform_gain_share": 5 / 7, "transform_gain_share_interval": [3 / 7, 1.0]}],
        "heldout_prompts": 200, "evaluation_samples": 32, "config": {"seed": 3}, "seconds": 1.0,
        "runs": {name: {"beta": 1.0, "steps": 9, "kl": 0.4, "lift_share": 0.9, "theory": {"best-of-4": 0.8},
                        "win_rates": {shown: {"mean": 0.7, "stderr": 0.01} for shown in ("standard", "best-of-4", "worst-of-4")}}
                 for name in ("identity", "exp:10")},
    }  # fmt: skip
    align = experiment("align")
    rows = align.rows(report, "command")
    assert rows[1]["gain_share"] == pytest.approx(5 / 7) and rows[0]["best_of_4_stderr"] == 0.01 and rows[0]["seed"] == 3
    assert "+5.0 points [+3.0, +7.0]" in align.claims(rows) and "0.71 [0.43, 1.00]" in align.claims(rows) and "other seeds 0.36 (seed 1)" in align.claims(rows)
    assert "identity at KL 0.40 and win rate 0.700" in align.figure(rows).alt_text
    assert json.dumps(rows)


def test_blocks_are_replaced_and_the_rest_is_kept():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert experiment("align").replace_block(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
