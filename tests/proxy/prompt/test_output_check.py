"""The check of an answer's form, and the request that asks again."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest, UnfitAnswer
from proxy.prompt.fit import Limits
from proxy.prompt.output_check import MOST_ANSWERS, OutputCheck
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt
from proxy.request.structured import WantedOutput
from proxy.request.template_traits import TemplateTraits

JSON = WantedOutput("response_format", {"type": "object"}, {})
CALL = WantedOutput("tool_choice", None, {"f": {"type": "object"}})
LIMITS = Limits(
    max_prompt_tokens=50,
    policy="error",
    keep_tokens=0,
    default_max_tokens=16,
    max_kv_size=None,
    context_length=4096,
)
REQUEST = CompletionRequest(ChatPrompt(({"role": "user", "content": "hi"},)), wanted=JSON)


class Counts:
    """Counts ten tokens per message; every value has the same problem."""

    def __init__(self, problem: str | None = None, *, bad_schema: bool = False) -> None:
        self.problem, self.bad_schema = problem, bad_schema

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        assert isinstance(prompt, ChatPrompt)
        return 10 * len(prompt.messages)

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        raise NotImplementedError

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        raise NotImplementedError

    async def json_problem(self, schema: dict[str, Any], value: Any) -> str | None:
        if self.bad_schema:
            raise InvalidRequest("The JSON Schema cannot be applied.")
        return self.problem


def _check(wanted: WantedOutput = JSON, counts: Counts | None = None, **more: Any) -> OutputCheck:
    return OutputCheck(wanted, counts or Counts(), LIMITS, more.get("template", TemplateTraits()))


def _said(content: str, finish: str = "stop") -> dict[str, Any]:
    return {"finish_reason": finish, "message": {"role": "assistant", "content": content}}


async def test_answers() -> None:
    assert (await _check().examine(_said("{}"))).problem is None
    assert (await _check().examine(_said("no"))).problem
    found = await _check(counts=Counts("$.x: wrong")).examine(_said("{}"))
    assert found.problem == "the answer is not valid by its schema: $.x: wrong."


async def test_an_answer_that_was_cut_short_is_left_as_it_is() -> None:
    assert (await _check().examine(_said('{"a', "length"))).problem is None


async def test_parameters_of_a_tool_may_be_no_schema() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    choice = {"finish_reason": "tool_calls", "message": {"tool_calls": [call]}}
    assert (await _check(CALL, Counts(bad_schema=True)).examine(choice)).problem is None
    with pytest.raises(InvalidRequest):
        await _check(JSON, Counts(bad_schema=True)).examine(_said("{}"))


async def test_asked_again_with_what_was_wrong_and_not_for_ever() -> None:
    check, request = _check(), REQUEST
    for number in range(1, MOST_ANSWERS):
        request, fitted = await check.corrected(request, _said("no"), "it is not JSON.")
        assert isinstance(request.prompt, ChatPrompt)
        assert len(request.prompt.messages) == 1 + 2 * number
        assert fitted.prompt is request.prompt
        assert fitted.prompt_tokens == 10 * len(request.prompt.messages)
    with pytest.raises(UnfitAnswer, match="asked 3 times") as failure:
        await check.corrected(request, _said("no"), "$.status: 503 is wrong.")
    assert failure.value.status == 422
    assert "503" not in failure.value.message, "agents take it for a status"


async def test_a_correction_that_does_not_fit_ends_with_the_same_error() -> None:
    long = CompletionRequest(ChatPrompt(({"role": "user", "content": "hi"},) * 4), wanted=JSON)
    with pytest.raises(UnfitAnswer, match="asked 1 times"):
        await _check().corrected(long, _said("no"), "it is not JSON.")


async def test_the_template_takes_the_correction() -> None:
    check = _check(template=TemplateTraits(empty_assistant=False, consecutive_users=False))
    request, _ = await check.corrected(REQUEST, _said(""), "it is empty.")
    assert isinstance(request.prompt, ChatPrompt)
    assert [message["role"] for message in request.prompt.messages] == ["user"]
