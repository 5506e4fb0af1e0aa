"""Coding agents against the proxy and the real server: an answer, tools, overflow, a crash."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeTiny
from tests.real.agents import AGENTS, Agent, Desk, install
from tests.real.processes import Gateway, guard, until
from tests.support.scripted import ANSWER, SAY

pytestmark = [pytest.mark.real, pytest.mark.clients, pytest.mark.node, pytest.mark.timeout(300)]

#: What the model takes, and what the proxy with a limit lets through. Agents open with 3,000 to 40,000 of the
#: model's short tokens.
CONTEXT, LIMIT = 65536, 48000
#: What agents are told: more, so that it is the refusal that they act on.
TOLD = 2 * CONTEXT
#: For one run; most of it is the agent's own start: up to 6 s on two idle cores, 25 s on busy ones.
PATIENCE_S = 90.0
#: Refusals of one question. pi, which asks again for a summary, has 2, and OpenCode, with a title, 3.
STORM = 5

MADE = "made-by-the-agent"
_COMMAND = f"echo done > {MADE}"
_ARGUMENTS = {"command": _COMMAND, "description": "Leaves a file."}
#: The shells of pi and OpenCode, of Qwen Code, of Claude Code and of Codex: each agent runs its own and tells
#: the model that the others do not exist.
SHELLS = {
    "bash": _ARGUMENTS,
    "run_shell_command": _ARGUMENTS,
    "Bash": _ARGUMENTS,
    "exec_command": {"cmd": _COMMAND},
}
_CALLS = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in SHELLS.items())
SAY_WITH_TOOLS = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in _CALLS)


@pytest.fixture(scope="module")
def model(make_tiny: MakeTiny) -> Path:
    """Of one thin layer, which reads 40,000 tokens in a fraction of a second."""
    options = {"layers": 1, "kv_bytes_per_token": 128, "context": CONTEXT}
    return make_tiny(say=SAY, say_with_tools=SAY_WITH_TOOLS, **options)


@pytest.fixture(scope="module")
def roomy(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A proxy that lets everything through."""
    with guard(model, tmp_path_factory.mktemp("roomy")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def talker(make_tiny: MakeTiny) -> Path:
    """A model that uses no tools: Claude Code dies of a compaction that is answered by a tool call."""
    return make_tiny(say=SAY, layers=1, kv_bytes_per_token=128, context=CONTEXT)


@pytest.fixture(scope="module")
def narrow(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A proxy with a limit of which the agents do not know."""
    with guard(talker, tmp_path_factory.mktemp("narrow"), f"--set=prompt.max_prompt_tokens={LIMIT}") as proxy:
        yield proxy


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Before the first test, so that its time is that of the agent."""
    install()


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> Agent:
    return AGENTS[request.param]


#: Not Codex, which ends at a refusal and compacts later; docs/agents.md says so.
COMPACTING = [name for name, agent in AGENTS.items() if agent.go_on]


def test_an_agent_answers(agent: Agent, narrow: Gateway, tmp_path: Path) -> None:
    before = len(answered(narrow))
    desk = Desk(agent, tmp_path, narrow.url, context=TOLD)
    code, said = desk.ask("What is the weather in Paris?").finish(PATIENCE_S)
    assert code == 0, said
    assert ANSWER in said
    assert {answer["outcome"] for answer in recorded(narrow, before)} == {"ok"}
    assert counter(narrow, "mlxguard_prompt_count_mismatches_total") == 0


def test_an_agent_uses_a_tool_and_answers(agent: Agent, roomy: Gateway, tmp_path: Path) -> None:
    before = len(answered(roomy))
    desk = Desk(agent, tmp_path, roomy.url, context=TOLD)
    code, said = desk.ask("What is the weather in Paris?").finish(PATIENCE_S)
    assert code == 0, said
    assert ANSWER in said
    assert (desk.project / MADE).exists(), said
    answers = recorded(roomy, before, least=2)  # one with the tool calls, one after their results
    assert {answer["outcome"] for answer in answers} == {"ok"}
    assert counter(roomy, "mlxguard_prompt_count_mismatches_total") == 0


@pytest.mark.parametrize("agent", COMPACTING, indirect=True)
def test_an_agent_that_is_refused_compacts_and_goes_on(agent: Agent, narrow: Gateway, tmp_path: Path) -> None:
    desk = Desk(agent, tmp_path, narrow.url, context=TOLD)
    before = refused(narrow)
    code, said = desk.ask(prompt_of(agent.words)).finish(PATIENCE_S)
    assert code == 0, said
    assert refused(narrow) == before, "the first question fits"
    _, said = desk.ask(prompt_of(agent.words), go_on=True).finish(PATIENCE_S)
    assert 1 <= refused(narrow) - before <= STORM, said
    assert ANSWER in said.splitlines(), "it has an answer to the second"
    last = recorded(narrow, 0)[-1]
    assert last["outcome"] == "ok"
    assert last["prompt_tokens"] < LIMIT


@pytest.mark.parametrize("agent", COMPACTING, indirect=True)
def test_an_agent_with_a_hopeless_question_gives_up(agent: Agent, narrow: Gateway, tmp_path: Path) -> None:
    before = refused(narrow)
    desk = Desk(agent, tmp_path, narrow.url, context=TOLD)
    _, said = desk.ask(prompt_of(12000)).finish(PATIENCE_S)
    assert 1 <= refused(narrow) - before <= STORM, said


def test_an_agent_does_not_notice_a_crash(agent: Agent, roomy: Gateway, tmp_path: Path) -> None:
    """The question is long enough to be read for a while, so that the child dies without content."""
    before, child = len(answered(roomy)), roomy.status()["child"]
    run = Desk(agent, tmp_path, roomy.url, context=TOLD).ask(prompt_of(agent.words))
    try:
        until("it asks", lambda: in_prefill(roomy), PATIENCE_S)
    finally:
        os.kill(child["pid"], signal.SIGKILL)
        code, said = run.finish(PATIENCE_S)
    assert code == 0, said
    assert ANSWER in said
    answers = recorded(roomy, before)
    assert {answer["outcome"] for answer in answers} == {"ok"}
    assert max(answer["attempts"] for answer in answers) == 2
    assert roomy.status()["child"]["generation"] == child["generation"] + 1


def prompt_of(words: int) -> str:
    """About five tokens a word."""
    return "Remember: " + " ".join(f"w{number * 7919 % 9973}" for number in range(words))


def in_prefill(proxy: Gateway) -> bool:
    return any(request["stage"] == "prefill" for request in proxy.status()["requests"])


def answered(proxy: Gateway) -> list[dict[str, Any]]:
    """The completion requests that were let in, in order of their ends."""
    return proxy.events("answered")


def recorded(proxy: Gateway, before: int, least: int = 1) -> list[dict[str, Any]]:
    """The requests after the first `before`, once none runs: an answer is sent before it is recorded."""

    def done() -> bool:
        return not proxy.status()["requests"] and len(answered(proxy)) >= before + least

    until("the answers are recorded", done, PATIENCE_S)
    return answered(proxy)[before:]


def refused(proxy: Gateway) -> float:
    """How many requests got a 400."""
    return counter(proxy, 'mlxguard_http_responses_total{status="400"}')


def counter(proxy: Gateway, series: str) -> float:
    lines = proxy.get("/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))
