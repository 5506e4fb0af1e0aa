"""Traces and --help run once and are cached; whatever goes wrong there, the caller gets a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.upper_bound import bound
from supervisor.state.json_file import write_json
from supervisor.tracing import client
from tests.support import checkpoints

TRACED = {
    "device": {"backend": "metal", "working_set": 1000},
    "traced": {
        "cost_model": {
            "parts": [
                {"kind": "growing", "row_bytes": 8, "size": 0, "keep": 0, "itemsize": 2, "quantizable": True}
            ]
        },
        "batched": False,
        "rotating": False,
        "attention": [[4, 64, 64]],
        "layer_width": 100,
        "layers": 2,
        "vocabulary": 50,
        "itemsize": 4,
    },
}


class Programs:
    """Stands for the processes that are run: what each writes, in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outputs: str | None) -> None:
        self.commands: list[Sequence[str]] = []
        self._outputs = list(outputs)
        monkeypatch.setattr(client, "_output", self._run)

    async def _run(self, command: Sequence[str], limit_s: float) -> str | None:
        self.commands.append(command)
        return self._outputs.pop(0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoints.write(tmp_path / "model", checkpoints.LLAMA_70B, weights=10**6)


async def test_a_model_is_traced_once(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, f"{json.dumps(TRACED)}\n")
    first = await client.trace_model(model, tmp_path)
    assert first.cost_model == CostModel((CachePart(GrowthKind.GROWING, 8, quantizable=True),))
    assert (first.batched, first.itemsize, first.backend, first.working_set) == (False, 4, "metal", 1000)
    assert first.attention == ((4, 64, 64),)
    assert first.reason is None
    assert await client.trace_model(model, tmp_path) == first
    assert len(programs.commands) == 1


async def test_another_configuration_is_another_question(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(monkeypatch, json.dumps(TRACED), json.dumps(TRACED), json.dumps(TRACED))
    await client.trace_model(model, tmp_path)
    await client.trace_model(model, tmp_path, trusted=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    await client.trace_model(model, tmp_path)
    assert len(programs.commands) == 3
    assert "--trust-remote-code" in programs.commands[1]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (None, "took over"),
        ("", "crashed"),
        ("no json", "crashed"),
        ('{"traced": null, "reason": "why"}', "why"),
    ],
)
async def test_without_a_trace_there_is_a_bound(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, output: str | None, reason: str
) -> None:
    Programs(monkeypatch, output)
    found = await client.trace_model(model, tmp_path)
    assert found.cost_model == bound(checkpoints.LLAMA_70B)
    assert reason in (found.reason or "")


async def test_a_crash_is_not_remembered(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(monkeypatch, None, json.dumps(TRACED))
    assert (await client.trace_model(model, tmp_path)).reason is not None
    assert (await client.trace_model(model, tmp_path)).reason is None


async def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    Programs(monkeypatch, json.dumps(TRACED))
    assert (await client.trace_model(model, tmp_path / "file")).reason is None


async def test_flags_are_read_from_the_servers_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(
        monkeypatch, "usage: [-h] [--prompt-cache-size N]\n  --prefill-step-size  step--not\n"
    )
    flags = await client.offered_flags((), tmp_path)
    assert flags == {"--prompt-cache-size", "--prefill-step-size"}
    assert await client.offered_flags((), tmp_path) == flags
    assert len(programs.commands) == 1


async def test_a_server_of_the_users_own_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(monkeypatch, "--model", None)
    assert await client.offered_flags(("uv", "run", "server"), tmp_path) == {"--model"}
    assert await client.offered_flags(("uv", "run", "server"), tmp_path) == frozenset()
    assert programs.commands == [("uv", "run", "server", "--help")] * 2


async def test_a_program_that_hangs_is_ended() -> None:
    assert await client._output(("sleep", "60"), 0.05) is None


async def test_a_program_that_is_not_there_says_nothing() -> None:
    assert await client._output(("/no/such/program",), 5) is None


@pytest.mark.real
async def test_the_real_server_has_the_flags_of_the_plan(tmp_path: Path) -> None:
    flags = await client.offered_flags((), tmp_path)
    assert flags >= {
        "--prefill-step-size",
        "--decode-concurrency",
        "--prompt-concurrency",
        "--prompt-cache-bytes",
        "--prompt-cache-size",
    }


@pytest.mark.real
async def test_the_embedded_model_is_traced(tmp_path: Path, tiny_model: Path) -> None:
    found = await client.trace_model(tiny_model, tmp_path)
    assert found.cost_model.bytes_per_row == 2 * 1024  # 2 layers of 1024 bytes, in float32
    assert found.itemsize == 4
    assert found.batched


@pytest.mark.parametrize(
    "content", [{"traced": {"cost_model": 7}}, {"traced": []}, {"device": []}, {"traced": 1}]
)
async def test_a_damaged_cache_is_made_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, object]
) -> None:
    Programs(monkeypatch, json.dumps(TRACED), json.dumps(TRACED))
    first = await client.trace_model(model, tmp_path)
    (file,) = (tmp_path / "traces").iterdir()
    write_json(file, content)
    assert await client.trace_model(model, tmp_path) == first
