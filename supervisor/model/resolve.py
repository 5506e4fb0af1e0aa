"""Finds the model (the embedded one, a folder, or a snapshot from the hub), and reads its facts.

Nothing here imports mlx or the hub's client: what needs them runs in a short-lived process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.environment import without_secrets

log = logging.getLogger("mlxguard.model")

#: The variables with which the hub's client authenticates a download.
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

#: The value of `[model] path` that stands for the embedded model.
EMBEDDED = "tiny"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZERS = ("tokenizer*.json", "tokenizer.model", "*tiktoken*", "vocab.*")
#: Bytes of a header by safetensors' own limit.
_HEADER_LIMIT = 100 * 2**20


class ModelUnavailable(Exception):
    """Says in one sentence what was looked for, what was found instead, and what to do."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts from config.json and the headers of the weights; None where these do not say."""

    architecture: str
    layers: int | None
    context_length: int | None  # tokens
    dtype: str | None  # type of most floating-point weights, as safetensors names it: "BF16"
    quantization_bits: int | None
    weights_bytes: int


async def resolve(path: str, revision: str | None, cache_dir: Path) -> Path:
    """Find or fetch the local folder of `[model] path`, complete enough for mlx_lm to load.

    Args:
        path: "tiny", a folder (`~` allowed), or a hub id, which is downloaded unless there is a snapshot.
        revision: branch, tag or commit of a hub id.
        cache_dir: the cache folder, in which the embedded model is made.

    Raises:
        ModelUnavailable: there is no such model, or it is not available now.
    """
    if path == EMBEDDED:
        return await _embedded(cache_dir / EMBEDDED)
    if (folder := _local(path)) is not None:
        return folder
    return await _snapshot(path, revision)


def fault(folder: Path) -> str | None:
    """A clause that says why mlx_lm could not load this folder; None when it looks complete."""
    if not folder.is_dir():
        return "is not a folder"
    try:
        _read_config(folder)
    except FileNotFoundError:
        return "has no config.json"
    except (OSError, ValueError) as error:
        return f"has a config.json that cannot be read ({error})"
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        return "has no tokenizer files"
    return _weights_fault(folder)


def describe(folder: Path) -> ModelFacts:
    """Read facts from config.json and the safetensors headers, in milliseconds at any size of the model.

    Raises:
        ModelUnavailable: the folder is not a model.
    """
    _require_complete(folder)
    config = _read_config(folder)
    text = config.get("text_config")
    inner = config | text if isinstance(text, dict) else config  # multimodal models nest the language model
    quantization = config.get("quantization") or config.get("quantization_config")
    return ModelFacts(
        architecture=str(config.get("model_type", "unknown")),
        layers=_integer(inner.get("num_hidden_layers")),
        context_length=_integer(inner.get("max_position_embeddings")),
        dtype=_float_dtype(folder),
        quantization_bits=_integer(quantization.get("bits")) if isinstance(quantization, dict) else None,
        weights_bytes=sum(file.stat().st_size for file in folder.glob("model*.safetensors")),
    )


def may_be_downloaded(path: str) -> bool:
    """Whether the path has the form of a hub id."""
    return _HUB_ID.fullmatch(path) is not None


def _local(path: str) -> Path | None:
    """The folder at that path, or None where only the hub can have the model."""
    folder = Path(path).expanduser()
    if folder.exists():
        _require_complete(folder)
        return folder.resolve()
    if not may_be_downloaded(path):
        raise ModelUnavailable(f"There is no folder {folder}.")
    return None


def _require_complete(folder: Path) -> None:
    if (reason := fault(folder)) is not None:
        raise ModelUnavailable(f"The model folder {folder} {reason}.")


def _read_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("it is not a JSON object")
    return config


def _weights_fault(folder: Path) -> str | None:
    if not any(folder.glob("model*.safetensors")):
        others = sorted(file.name for kind in ("*.gguf", "*.bin", "*.pt") for file in folder.glob(kind))
        hint = f", and mlx_lm does not read {others[0]}: convert it with mlx_lm.convert" if others else ""
        return f"has no weights (model*.safetensors){hint}"
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        missing = {name for name in index["weight_map"].values() if not (folder / name).exists()}
    except FileNotFoundError:
        return None  # one file needs no index
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"has a model.safetensors.index.json that cannot be read ({error!r})"
    return f"lacks {len(missing)} of its weight files, such as {min(missing)}" if missing else None


def tensor_dtypes(folder: Path) -> dict[str, str]:
    """Data type of every tensor in the weights by name, as safetensors names types ("BF16", "U32").

    Raises:
        ModelUnavailable: a file is damaged.
    """
    return {name: entry["dtype"] for name, entry in _tensors(folder)}


def _float_dtype(folder: Path) -> str | None:
    sizes: Counter[str] = Counter()
    for _, entry in _tensors(folder):
        if entry["dtype"].startswith(("F", "BF")):
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] += end - begin
    return sizes.most_common(1)[0][0] if sizes else None


def _tensors(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.glob("model*.safetensors")):
        yield from ((name, entry) for name, entry in _header(file).items() if name != "__metadata__")


def _header(file: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of its length, little-endian, then the JSON."""
    with file.open("rb") as content:
        try:
            (length,) = struct.unpack("<Q", content.read(8))
            header = json.loads(content.read(min(length, _HEADER_LIMIT)))
        except (struct.error, ValueError) as error:
            raise ModelUnavailable(f"The weights file {file} is damaged: {error}.") from error
    return header if isinstance(header, dict) else {}


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


async def _embedded(folder: Path) -> Path:
    status, complaint = await _python("supervisor.model.tiny", "--out", str(folder), read=lambda line: None)
    if status != 0:
        raise ModelUnavailable(f"The embedded model could not be made in {folder}: {complaint}")
    return folder


async def _snapshot(name: str, revision: str | None) -> Path:
    answer: dict[str, str] = {}

    def read(line: str) -> None:
        event = json.loads(line)
        match event:
            case {"retry": _}:
                log.warning("download_interrupted", extra={"model": name, **event})
            case {"bytes": _}:
                log.info("downloading", extra={"model": name, **event})
            case _:
                answer.update(event)

    options = () if revision is None else ("--revision", revision)
    status, complaint = await _python("supervisor.model.download", name, *options, read=read)
    if status != 0:
        raise ModelUnavailable(answer.get("error") or f'The download of "{name}" failed: {complaint}')
    folder = Path(answer["folder"])
    _require_complete(folder)
    return folder


async def _python(module: str, *arguments: str, read: Callable[[str], None]) -> tuple[int, str]:
    """Run one of our modules to its end; returns its exit status and the last line of its stderr.

    Its stdin closes when this process ends, which tells it to stop; cancelling this task kills it.
    """
    process = await asyncio.create_subprocess_exec(
        # -P: a folder that is named like one of our packages, in the working directory, must not be imported.
        *(sys.executable, "-P", "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=without_secrets(keep=_HUB_TOKENS),
        start_new_session=True,  # Ctrl-C is for the gateway, which then decides
    )
    assert process.stdin and process.stdout and process.stderr
    try:
        complaint, _ = await asyncio.gather(_last_line(process.stderr), _each_line(process.stdout, read))
        return await process.wait(), complaint
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _each_line(stream: asyncio.StreamReader, read: Callable[[str], None]) -> None:
    async for line in stream:
        read(line.decode(errors="replace").rstrip())


async def _last_line(stream: asyncio.StreamReader) -> str:
    last = "it wrote nothing."
    async for line in stream:
        last = line.decode(errors="replace").strip() or last
    return last
