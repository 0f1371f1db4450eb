"""The Hugging Face Hub, asked only for what the user named: first the local cache, then the network, failing fast.

Of a model only safetensors and text files are fetched, never a pickle nor code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
TIMEOUT = 5.0  # seconds until the Hub counts as out of reach


def model_folder(repo: str) -> Path:
    """The local folder of a Hub model, downloaded if it is not whole in the local cache.

    Raises: ValueError for an unknown model or one without safetensors, ConnectionError if the Hub is out of reach.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=MODEL_FILES))
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    except LocalEntryNotFoundError:
        pass
    info = _ask(lambda: HfApi().model_info(repo, timeout=TIMEOUT), f"model {repo!r}")
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or []):
        raise ValueError(f"model {repo} must have *.safetensors weights on the Hub, got none")
    return Path(_ask(lambda: snapshot_download(repo, allow_patterns=MODEL_FILES), f"model {repo!r}"))


def dataset_file(repo: str, file: str) -> Path:
    """The local path of one file of a Hub dataset, downloaded if it is not in the local cache.

    Raises: ValueError for an unknown dataset or file, ConnectionError if the Hub is out of reach.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    _ask(lambda: HfApi().dataset_info(repo, timeout=TIMEOUT), f"dataset {repo!r}")
    return Path(_ask(lambda: hf_hub_download(repo, file, repo_type="dataset"), f"file {file!r} of dataset {repo!r}"))


def _ask(request: Callable[[], Any], what: str) -> Any:
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        return request()
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError) as error:
        raise ValueError(f"{what} must exist on the Hugging Face Hub and be public") from error
    except Exception as error:  # the Hub's client has its own classes for a network that is down
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise ConnectionError(f"{what} is not on this machine and the Hub can't be reached ({reason})") from error
