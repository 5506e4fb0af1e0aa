"""Finding the model: the embedded one, folders whole and broken, and what the download process answers."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from supervisor.model import resolve as model
from supervisor.model.resolve import ModelFacts, ModelUnavailable, describe, fault, resolve


async def test_tiny_is_made_in_the_cache_folder(tmp_path: Path) -> None:
    folder = await resolve("tiny", None, tmp_path / "cache")
    assert folder == tmp_path / "cache" / "tiny"
    assert fault(folder) is None
    assert await resolve("tiny", None, tmp_path / "cache") == folder


async def test_tiny_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ModelUnavailable, match=r"embedded model could not be made in .*cache"):
        await resolve("tiny", None, tmp_path / "cache")


async def test_a_folder_is_taken_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    assert await resolve(str(tiny_model), None, tmp_path) == tiny_model


async def test_home_is_understood(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    assert await resolve(f"~/{tiny_model.name}", None, tmp_path) == tiny_model


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "./models/mine", "~/models/mine", "a b", "org/name/more"]
)
async def test_a_path_that_can_only_be_a_folder_is_not_looked_up_on_the_hub(
    path: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match="no folder"):
        await resolve(path, None, tmp_path)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_a_complete_model_has_no_fault(copy: Path) -> None:
    assert fault(copy) is None


def test_a_file_is_not_a_model(copy: Path) -> None:
    assert fault(copy / "config.json") == "is not a folder"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "has no config.json"),
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_broken_config(copy: Path, content: str | None, complaint: str) -> None:
    (copy / "config.json").unlink()
    if content is not None:
        (copy / "config.json").write_text(content, errors="surrogateescape")
    assert complaint in str(fault(copy))


def test_no_tokenizer(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert fault(copy) == "has no tokenizer files"


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert fault(copy) == "has no weights (model*.safetensors)"


def test_weights_of_another_kind(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model.gguf")
    assert "does not read model.gguf: convert it" in str(fault(copy))


def test_incomplete_weights(copy: Path) -> None:
    _write_index(copy, {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}})
    assert fault(copy) == "lacks 1 of its weight files, such as model-00002.safetensors"
    _write_index(copy, {"weight_map": {"a": "model.safetensors"}})
    assert fault(copy) is None


@pytest.mark.parametrize("index", [[], {}, {"weight_map": 3}])
def test_a_broken_index(copy: Path, index: object) -> None:
    _write_index(copy, index)
    assert "index.json that cannot be read" in str(fault(copy))


def _write_index(folder: Path, index: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_facts_of_the_embedded_model(tiny_model: Path) -> None:
    size = (tiny_model / "model.safetensors").stat().st_size
    assert describe(tiny_model) == ModelFacts("qwen3", 2, 32768, "F32", None, size)


def test_facts_of_a_quantized_model_with_parts(copy: Path) -> None:
    config = {
        "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 26, "max_position_embeddings": 131072},
        "quantization": {"group_size": 64, "bits": 4},
    }
    (copy / "config.json").write_text(json.dumps(config))
    _write_weights(
        copy / "model.safetensors", {"w": "U32", "scales": "BF16", "biases": "BF16", "state": "F32"}
    )
    facts = describe(copy)
    assert (facts.architecture, facts.layers, facts.context_length) == ("gemma3", 26, 131072)
    assert (facts.dtype, facts.quantization_bits) == ("BF16", 4)


def test_missing_facts(copy: Path) -> None:
    (copy / "config.json").write_text('{"num_hidden_layers": "many", "quantization": 4}')
    _write_weights(copy / "model.safetensors", {})
    assert describe(copy) == ModelFacts("unknown", None, None, None, None, 8 + len("{}"))


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{", struct.pack("<Q", 2**63)])
def test_damaged_weights(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is damaged"):
        describe(copy)


def _write_weights(file: Path, dtypes: dict[str, str]) -> None:
    """Headers only: each tensor says it has 16 bytes."""
    header = json.dumps({name: {"dtype": kind, "data_offsets": [0, 16]} for name, kind in dtypes.items()})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode())


Downloader = Callable[[str], object]


@pytest.fixture
def downloader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Downloader:
    """Takes the code of a module that stands in for supervisor.model.download."""
    package = tmp_path / "stand_in" / "supervisor" / "model"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(package.parents[1]))
    return (package / "download.py").write_text


async def test_a_download_is_reported_and_checked(
    downloader: Downloader, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    downloader(f"""import sys
assert sys.argv[1:] == ["org/name", "--revision", "v1"], sys.argv
print('{{"bytes": 5, "total": 10}}')
print('{{"retry": 1, "reason": "ConnectError"}}')
print('{{"folder": "{tiny_model}"}}')
""")
    with caplog.at_level(logging.INFO):
        assert await resolve("org/name", "v1", tmp_path) == tiny_model
    assert [(record.message, record.levelname) for record in caplog.records] == [
        ("downloading", "INFO"),
        ("download_interrupted", "WARNING"),
    ]


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ('print(\'{"error": "It is gated."}\'); raise SystemExit(1)', "It is gated"),
        ("raise RuntimeError('a bug')", 'download of "name" failed: RuntimeError: a bug'),
        ("raise SystemExit(3)", "it wrote nothing"),
        ('print(\'{"folder": "/nowhere"}\')', "/nowhere is not a folder"),
    ],
)
async def test_a_download_that_fails(
    downloader: Downloader, tmp_path: Path, code: str, complaint: str
) -> None:
    downloader(code)
    with pytest.raises(ModelUnavailable, match=complaint):
        await resolve("name", None, tmp_path)


async def test_a_cancelled_download_ends(
    downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloader("import os, time; print('{\"bytes\": %d}' % os.getpid(), flush=True); time.sleep(60)")
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(model.log, "info", lambda event, extra: started.set_result(extra["bytes"]))
    waiting = asyncio.create_task(resolve("name", None, tmp_path))
    pid = await started
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not psutil.pid_exists(pid)
