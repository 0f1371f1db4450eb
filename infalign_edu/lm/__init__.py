"""Language models as policies: the embedded dialogue world, its reference model, sampling, rewards and decoding.

Nothing is imported here that needs torch, so that a module which needs none (`world`) costs none.
"""

from pathlib import Path

from infalign_edu.shipped import shipped


def embedded(name: str = "") -> Path:
    """Where a part of the embedded world lies: the model's folder, the prompts, the preference pairs.

    Raises: FileNotFoundError for a name that does not ship.

    >>> embedded("prompts.jsonl").name
    'prompts.jsonl'
    """
    return shipped(f"embedded/{name}")
