"""Making the embedded model: what can be asked for, sameness, and safety of the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.model import tiny
from supervisor.model.tiny import STAMP, TinySpec, make
from tests.conftest import MakeTiny

MAKE = [sys.executable, "-P", "-m", "supervisor.model.tiny"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"architecture": "bert"}, "architecture"),
        ({"layers": 0}, "layers"),
        ({"architecture": "gemma3_text", "layers": 3}, "multiple of 2 layers"),
        ({"kv_bytes_per_token": 1000}, "multiple of 256"),
        ({"kv_bytes_per_token": -256}, "multiple of 256"),
        ({"hidden": 8}, "at least 16"),
        ({"hidden": 32, "say": "hello"}, "at least 64"),
        ({"vocab": 255}, "vocab"),
        ({"context": 0}, "context"),
    ],
)
def test_an_impossible_model_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TinySpec(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "heads"),
    [
        ({}, (1, 128)),
        ({"layers": 64}, (1, 128)),
        ({"layers": 4, "kv_bytes_per_token": 131072}, (16, 256)),
        ({"layers": 4, "kv_bytes_per_token": 131072, "architecture": "qwen3_next"}, (32, 256)),
        ({"kv_bytes_per_token": 256}, (1, 16)),
        ({"kv_bytes_per_token": 768}, (3, 16)),
    ],
)
def test_heads_follow_from_the_bytes_of_a_token(options: dict[str, object], heads: tuple[int, int]) -> None:
    assert TinySpec(**options).heads == heads  # type: ignore[arg-type]


def test_the_same_arguments_make_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    subprocess.run([*MAKE, f"--out={tmp_path / 'model'}"], check=True, stdout=subprocess.DEVNULL)
    assert _content(tmp_path / "model") == _content(tiny_model)


def test_config_carries_what_was_asked_for(make_tiny: MakeTiny) -> None:
    folder = make_tiny(context=4096, window=128, architecture="gemma3_text", layers=4, hidden=32, vocab=512)
    config = json.loads((folder / "config.json").read_text())
    assert (config["max_position_embeddings"], config["sliding_window"]) == (4096, 128)
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (4, 32, 512)
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 4096


def test_the_command_refuses_an_impossible_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        tiny.main([f"--out={tmp_path / 'model'}", "--layers=0"])
    assert exit_.value.code == 2
    assert "multiple of 1 layers" in capsys.readouterr().err


def test_the_command_says_why_a_folder_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert tiny.main([f"--out={tmp_path}"]) == 1
    assert "left as it is" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_several_at_once_make_one(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen([*MAKE, f"--out={tmp_path / 'model'}"], stdout=-1, text=True) for _ in range(3)
    ]
    said = [maker.communicate()[0].strip() for maker in makers]
    assert said == [str(tmp_path / "model")] * 3
    assert [maker.returncode for maker in makers] == [0] * 3
    assert _folders(tmp_path) == ["model"]


class Writer:
    """Stands in for what writes the files, which imports mlx; the folder around them is what is tested."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self.fails = False
        monkeypatch.setattr(tiny, "_write", self.write)

    def write(self, spec: TinySpec, folder: Path) -> None:
        self.runs += 1
        (folder / "config.json").write_text(f"made from {spec}")
        if self.fails:
            raise KeyboardInterrupt
        (folder / "model.safetensors").touch()


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    return Writer(monkeypatch)


def test_a_model_that_is_up_to_date_is_left_alone(tmp_path: Path, writer: Writer) -> None:
    assert make(TinySpec(), tmp_path / "model") == make(TinySpec(), tmp_path / "model")
    assert writer.runs == 1


def test_a_model_of_another_recipe_is_made_again(tmp_path: Path, writer: Writer) -> None:
    make(TinySpec(seed=1), tmp_path / "model")
    made = _content(make(TinySpec(), tmp_path / "model"))
    (tmp_path / "model" / STAMP).write_text("an older one")
    assert _content(make(TinySpec(), tmp_path / "model")) == made
    assert writer.runs == 3
    assert _folders(tmp_path) == ["model"]


def test_an_incomplete_model_is_never_left_behind(tmp_path: Path, writer: Writer) -> None:
    writer.fails = True
    with pytest.raises(KeyboardInterrupt):
        make(TinySpec(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    writer.fails = False
    assert (make(TinySpec(), tmp_path / "model") / "model.safetensors").exists()
    assert _folders(tmp_path) == ["model"]  # the half is gone


def test_a_model_that_is_not_made_leaves_the_old_one(tmp_path: Path, writer: Writer) -> None:
    before = _content(make(TinySpec(), tmp_path / "model"))
    writer.fails = True
    with pytest.raises(KeyboardInterrupt):
        make(TinySpec(seed=1), tmp_path / "model")
    assert _content(tmp_path / "model") == before


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _folders(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.is_dir()]
