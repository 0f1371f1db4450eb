"""The package as others get it: a wheel, installed elsewhere, run from another folder, without the network."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_code_model_and_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"infalign_edu/data/embedded/model/model.safetensors", "infalign_edu/data/embedded/prompts.jsonl"} <= set(names)
    assert all(name.startswith(("infalign_edu/", "infalign_edu-")) for name in names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".ipynb")) or "test" in name]
    assert wheel.stat().st_size < 5_000_000


def test_a_built_wheel_runs_from_any_folder(wheel, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = (
        "import infalign_edu, pathlib; from infalign_edu.lm.models import load; "
        f"assert pathlib.Path(infalign_edu.__file__).is_relative_to({str(target)!r}); "
        "print(len(load('embedded').sample(['how do i clean my kettle before work'], 3, seed=0).responses))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env={"PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1", "PATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "3", done.stderr


def test_version_is_said_once():
    import tomllib

    import infalign_edu

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == infalign_edu.__version__
    assert f"version: {infalign_edu.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_every_pin_lies_in_the_range_that_pyproject_allows():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    ranges = {Requirement(line).name: Requirement(line).specifier for line in [*project["dependencies"], *extras]}
    files = [ROOT / "requirements.txt", ROOT / "requirements-test.txt"]
    lines = [line for file in files for line in file.read_text().splitlines() if line and line[0] not in "#-"]
    pins = {Requirement(line).name: Requirement(line).specifier for line in lines}
    assert all(str(pin).startswith("==") for pin in pins.values())
    for name, pin in pins.items():
        assert str(pin)[2:] in ranges.get(name, SpecifierSet()), name
    assert set(ranges) - {"infalign-edu"} <= set(pins)


def test_the_readme_example_of_own_parts_runs():
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    found: dict = {}
    exec(code, found)  # noqa: S102
    assert found["optimum"].certified in ("global", "stationary") and 0 < found["rate"].mean < 1
