"""Language models as policies: the embedded dialogue world, its reference model, sampling, rewards and decoding.

Nothing is imported here, so that a module which needs no torch (`world`) costs no torch.
"""

from pathlib import Path


def embedded(name: str = "") -> Path:
    """Where a file or folder that ships with the package lies, in a source checkout and in an installed wheel.

    A checkout keeps it in `data/embedded` beside the package, a wheel in `infalign_edu/data/embedded`.

    Raises: FileNotFoundError if neither place has it.

    >>> embedded("prompts.jsonl").name
    'prompts.jsonl'
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "data" / "embedded" / name, package.parent / "data" / "embedded" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"embedded data must be a file shipped with infalign_edu, got {name!r}: not in {places}")
