"""Where the files lie that ship with the package: the embedded model and data, and the tables that notebooks read."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str = "") -> Path:
    """The path of a file or folder that ships with the package, in a source checkout and in an installed wheel.

    A checkout keeps it in `data/` beside the package, a wheel in `infalign_edu/data/`.

    Raises: FileNotFoundError if neither place has it.

    >>> shipped("runs/align.csv").name
    'align.csv'
    """
    package = Path(__file__).resolve().parent
    places = [package / "data" / name, package.parent / "data" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"name must be a file shipped with infalign_edu, got {name!r}: not in {places}")
