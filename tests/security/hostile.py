"""Hostile files for the tests: pickles that leave a marker when somebody opens them, and texts shaped like scripts."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np

SCRIPTS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</style></td></table></div><svg onload=document.title='owned'>",
    "\"><iframe srcdoc=\"<script>top.document.title='owned'</script>\">",
    "javascript:document.title='owned'",
    "<a href=\"javascript:document.title='owned'\">x</a><base href=//example.org/>",
    "<link rel=stylesheet href=//example.org/a.css><meta http-equiv=refresh content='0;url=//example.org'>",
    "&#60;script&#62;document.title='owned'&#60;/script&#62; ${7*7} {{7*7}} \u202e",
    r"$\href{javascript:document.title='owned'}{x}$",
)


class Bomb:
    """Writes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def pickles(folder: Path, marker: Path) -> dict[str, Path]:
    """Pickled bombs: plain, as torch saves them, as an array in an .npz and as an .npy."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    found = {name: folder / f"{name}.bin" for name in ("plain", "torch", "npz", "npy")}
    found["plain"].write_bytes(pickle.dumps(Bomb(marker)))
    torch.save({"weights": Bomb(marker)}, found["torch"])
    entry = np.array([Bomb(marker)], dtype=object)
    names = ("reference_rewards", "metadata", "weights", "mean", "scale", "about", "features", "first.weight", "rates")
    with found["npz"].open("wb") as file:
        np.savez(file, **dict.fromkeys(names, entry))
    with found["npy"].open("wb") as file:
        np.save(file, entry, allow_pickle=True)
    return found


def edited(folder: Path, file: str, **fields: object) -> None:
    """Sets fields of a JSON file of a model folder, which is made if it is not there."""
    path = folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | fields))


def indexed(folder: Path, target: str) -> None:
    """Replaces a model's weights by an index that says they lie in `target`; a decoy is left in the folder."""
    from safetensors import safe_open

    weights = (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    with safe_open(weights, "pt") as file:
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(file.keys(), target)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def copied(good: Path, target: Path) -> Path:
    """A copy of a model folder to spoil."""
    return Path(shutil.copytree(good, target))
