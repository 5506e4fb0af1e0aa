from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from proxy.config.settings import RequestSettings, Settings
from proxy.errors import RestartFailed, Unavailable
from proxy.planning import preparation
from proxy.planning.planner import Planner
from proxy.planning.preparation import Preparation, image_policy, request_bounds
from proxy.prompt.counter import TokenCounter, TokenizerInfo, TokenizerUnavailable
from proxy.prompt.worker_process import WorkerDied
from supervisor.child.options import CannotStart
from supervisor.lifecycle.causes import Cause
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan, plan
from supervisor.model.resolve import ModelUnavailable

INFO = TokenizerInfo(
    vocab_size=100, context_length=4096, has_chat_template=True, has_tool_calling=False, has_thinking=False
)


class FakeTokens:
    """Loads when the test says so."""

    def __init__(self) -> None:
        self.loaded: asyncio.Future[TokenizerInfo] = asyncio.get_running_loop().create_future()
        self.starts: list[tuple[Path, tuple[str, ...]]] = []
        self.stopped = False

    async def start(self, folder: Path, server_argv: Sequence[str]) -> TokenizerInfo:
        self.starts.append((folder, tuple(server_argv)))
        return await self.loaded

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> list[Path | Exception]:
    """What looking for the model gives, one after another."""
    found: list[Path | Exception] = [Path("/models/a")]

    async def resolve(path: str, revision: str | None, cache_dir: Path) -> Path:
        result = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(preparation, "resolve", resolve)
    return found


def make(tokens: FakeTokens, **prompt: object) -> Preparation:
    settings = Settings.model_validate({"prompt": prompt})
    return Preparation(settings, cast("TokenCounter", tokens), Path("/cache"))


async def test_the_child_may_start_before_the_tokenizer_is_loaded(model: list[Path | Exception]) -> None:
    tokens = FakeTokens()
    made = make(tokens)
    launch = await made.prepare()
    assert launch.argv[:2] == ("--model", "/models/a")
    assert made.prepared is None
    with pytest.raises(Unavailable):
        await made.ready(0)
    tokens.loaded.set_result(INFO)
    ready = await made.ready(5)
    assert ready.limits.max_prompt_tokens == 4096
    assert ready.bounds.vocab_size == 100
    assert tokens.starts == [(Path("/models/a"), launch.argv)]


async def test_a_restart_does_not_load_the_tokenizer_again(model: list[Path | Exception]) -> None:
    tokens = FakeTokens()
    made = make(tokens)
    await made.prepare()
    await made.prepare()  # the child died while the tokenizer was loading
    tokens.loaded.set_result(INFO)
    await made.ready(5)
    await made.prepare()
    assert len(tokens.starts) == 1


async def test_files_that_changed_are_loaded_again_with_the_next_child(
    model: list[Path | Exception], tmp_path: Path
) -> None:
    model[:] = [tmp_path]
    template = tmp_path / "chat_template.jinja"
    template.write_text("one")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    tokens = FakeTokens()
    tokens.loaded.set_result(INFO)
    made = make(tokens)
    await made.prepare()
    assert (await made.ready(5)).bounds.vocab_size == 100
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    await made.prepare()
    assert len(tokens.starts) == 1, "the tokenizer does not read the weights"
    template.write_text("another")
    tokens.loaded = asyncio.get_running_loop().create_future()
    await made.prepare()
    assert made.prepared is None, "what clients send now is counted by the new files only"
    tokens.loaded.set_result(replace(INFO, vocab_size=200, context_length=128))
    ready = await made.ready(5)
    assert (ready.bounds.vocab_size, ready.limits.max_prompt_tokens) == (200, 128)
    assert len(tokens.starts) == 2


async def test_files_that_change_while_they_are_loaded_are_loaded_again(
    model: list[Path | Exception], tmp_path: Path
) -> None:
    """So is a newer snapshot, which is another folder."""
    model[:] = [tmp_path / "a", tmp_path / "b"]
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(name)
    tokens = FakeTokens()
    made = make(tokens)
    await made.prepare()
    await asyncio.sleep(0)
    tokens.loaded = asyncio.get_running_loop().create_future()
    tokens.loaded.set_result(INFO)
    await made.prepare()
    assert (await made.ready(5)).folder == tmp_path / "b"
    assert [folder.name for folder, _ in tokens.starts] == ["a", "b"]


async def test_a_tokenizer_that_cannot_be_started_for_want_of_descriptors_is_started_later(
    model: list[Path | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_LONGEST_PAUSE_S", 0.01)
    tokens = FakeTokens()
    tokens.loaded.set_exception(OSError(errno.EMFILE, "Too many open files"))
    made = make(tokens)
    await made.prepare()
    while len(tokens.starts) < 3:
        await asyncio.sleep(0.005)
    tokens.loaded = asyncio.get_running_loop().create_future()
    tokens.loaded.set_result(INFO)
    assert (await made.ready(5)).bounds.vocab_size == 100


@pytest.mark.parametrize("error", [WorkerDied(), ZeroDivisionError()])
async def test_requests_never_wait_for_a_loading_that_has_failed(
    model: list[Path | Exception], error: Exception
) -> None:
    tokens = FakeTokens()
    tokens.loaded.set_exception(error)
    made = make(tokens)
    await made.prepare()
    with pytest.raises(RestartFailed):
        await made.ready(5)


async def test_a_fixed_limit_applies(model: list[Path | Exception]) -> None:
    tokens = FakeTokens()
    tokens.loaded.set_result(INFO)
    made = make(tokens, max_prompt_tokens=100, prompt_overflow_policy="truncate", prompt_keep_tokens=10)
    await made.prepare()
    limits = (await made.ready(5)).limits
    assert (limits.max_prompt_tokens, limits.policy, limits.keep_tokens) == (100, "truncate", 10)


async def test_an_unavailable_model_fails_requests_at_once_and_can_be_tried_again(
    model: list[Path | Exception],
) -> None:
    model[:] = [ModelUnavailable("there is no folder /models/a"), Path("/models/a")]
    tokens = FakeTokens()
    tokens.loaded.set_result(INFO)
    made = make(tokens)
    with pytest.raises(CannotStart) as caught:
        await made.prepare()
    assert caught.value.cause is Cause.BAD_MODEL
    with pytest.raises(RestartFailed):
        await made.ready(5)
    await made.prepare()
    assert (await made.ready(5)).folder == Path("/models/a")


async def test_a_tokenizer_that_cannot_be_loaded_fails_requests_at_once(
    model: list[Path | Exception],
) -> None:
    tokens = FakeTokens()
    tokens.loaded.set_exception(TokenizerUnavailable("tokenizer.json is damaged"))
    made = make(tokens)
    await made.prepare()
    assert made.failure is None
    with pytest.raises(RestartFailed) as caught:
        await made.ready(5)
    assert "cannot be loaded" in caught.value.message
    assert made.failure == "tokenizer.json is damaged"


async def test_stopping_cancels_the_loading(model: list[Path | Exception]) -> None:
    tokens = FakeTokens()
    made = make(tokens)
    await made.prepare()
    await made.stop()
    assert tokens.stopped


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Plan | Exception]:
    """What planning gives, one after another."""
    made: list[Plan | Exception] = []

    async def make_plan(planner: Planner, folder: Path) -> Plan:
        result = made.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(Planner, "plan", make_plan)
    return made


def a_plan(ceiling: int) -> Plan:
    """Of a model that costs a megabyte per token and has 1 GB of weights."""
    traced = Traced(cost_model=CostModel((CachePart(GrowthKind.GROWING, 10**6),)))
    model = Model(weights=10**9, cost_model=traced.cost_model, traced=traced, batched=True)
    return plan(model, Ceiling(ceiling, "a test"), FlagOverrides(), frozenset({"--prompt-cache-size"}), 4096)


async def test_the_plan_sets_flags_limits_and_the_gate(
    model: list[Path | Exception], planned: list[Plan | Exception]
) -> None:
    small = a_plan(7 * 10**9)
    planned.append(small)
    told: list[Plan] = []
    tokens = FakeTokens()
    made = Preparation(Settings(), cast("TokenCounter", tokens), Path("/cache"), on_plan=told.append)
    launch = await made.prepare()
    assert launch.argv[2:] == ("--prompt-cache-size", "10")
    assert launch.mlx_cache_limit == 350_000_000
    assert told == [small]
    tokens.loaded.set_result(INFO)
    limits = (await made.ready(5)).limits
    assert limits.max_prompt_tokens == limits.fits_alone == small.max_prompt
    assert small.max_prompt is not None
    assert small.max_prompt < 4096


async def test_each_start_is_planned_anew(
    model: list[Path | Exception], planned: list[Plan | Exception]
) -> None:
    planned += [a_plan(7 * 10**9), a_plan(10**11)]
    told: list[Plan] = []
    made = Preparation(Settings(), cast("TokenCounter", FakeTokens()), Path("/cache"), on_plan=told.append)
    first, second = await made.prepare(), await made.prepare()
    assert first.mlx_cache_limit != second.mlx_cache_limit
    assert len(told) == 2
    await made.stop()


async def test_what_clients_are_told_changes_with_the_restart(
    model: list[Path | Exception], planned: list[Plan | Exception]
) -> None:
    before, after = a_plan(7 * 10**9), a_plan(6 * 10**9)
    planned += [before, after]
    tokens = FakeTokens()
    tokens.loaded.set_result(INFO)
    made = make(tokens)
    await made.prepare()
    assert (await made.ready(5)).limits.max_prompt_tokens == before.max_prompt
    await made.prepare()
    assert (await made.ready(0)).limits.max_prompt_tokens == after.max_prompt
    assert (after.max_prompt or 0) < (before.max_prompt or 0)
    assert len(tokens.starts) == 1


@pytest.mark.parametrize("failure", [OSError("no folder"), KeyError("a bug")])
async def test_a_plan_that_fails_leaves_the_servers_defaults(
    model: list[Path | Exception], planned: list[Plan | Exception], failure: Exception
) -> None:
    planned.append(failure)
    tokens = FakeTokens()
    made = make(tokens)
    assert (await made.prepare()).argv == ("--model", "/models/a")
    tokens.loaded.set_result(INFO)
    assert (await made.ready(5)).limits.max_prompt_tokens == 4096


def test_settings_become_what_requests_are_checked_against() -> None:
    settings = RequestSettings(
        adapters=("a",),
        draft_models=("d",),
        role_mapping=True,
        template_arguments=("persona=x|y",),
        max_images=3,
        max_image_bytes=1000,
        image_hosts=("pics.example",),
    )
    checked_by = request_bounds(settings, replace(INFO, image_obstacle=None), Path("/models/m"))
    assert checked_by.vocab_size == 100
    assert checked_by.allowlist.model == "/models/m"
    assert checked_by.allowlist.adapters == {"a"}
    assert checked_by.allowlist.draft_models == {"d"}
    assert checked_by.allowlist.arguments["persona"] == {"x", "y"}
    assert checked_by.allowlist.arguments["enable_thinking"] is None
    policy = checked_by.images
    assert (policy.most, policy.most_bytes, policy.hosts) == (3, 1000, {"pics.example"})
    assert policy.obstacle is None


def test_images_are_refused_if_the_settings_or_the_model_do_not_accept_them() -> None:
    assert image_policy(RequestSettings(), "blind").obstacle == "blind"
    assert image_policy(RequestSettings(max_images=0)).obstacle == "this server is set to take no images"
