"""Checks whether an answer has the form that its request demands, and makes the request that asks again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from proxy.errors import InvalidRequest, PromptTooLong, UnfitAnswer
from proxy.prompt.fit import Counter, Fitted, Limits, fit
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.request.fields import mask_statuses
from proxy.request.structured import Examined, WantedOutput, examine, with_correction
from proxy.request.template_traits import TemplateTraits

#: Answers that are asked for at most: a model that misses a form three times, told what is wrong, will again.
MOST_ANSWERS = 3


class JsonCounter(Counter, Protocol):
    """The part of `proxy.prompt.counter.TokenCounter` that the check uses."""

    async def json_problem(self, schema: dict[str, Any], value: Any) -> str | None: ...


@dataclass(slots=True)
class OutputCheck:
    """The check of one request's answers. `unfit`: how many did not fit so far."""

    wanted: WantedOutput
    counter: JsonCounter
    limits: Limits
    template: TemplateTraits
    unfit: int = 0

    async def examine(self, choice: Mapping[str, Any]) -> Examined:
        """What is wrong with an answer's only choice.

        An answer that max_tokens has cut short goes to the client as it is, as at OpenAI: asked again, it
        would be cut again, and its `finish_reason` says so.
        """
        if choice.get("finish_reason") == "length":
            return Examined()
        found = examine(self.wanted, choice.get("message") or {})
        for check in found.checks:
            try:
                problem = await self.counter.json_problem(check.schema, check.value)
            except InvalidRequest:
                if self.wanted.schema is not None:
                    raise
                continue  # the parameters of a tool, which no agent writes as a strict schema
            if problem is not None:
                return Examined(problem=f"{check.name} is not valid by its schema: {problem}.")
        return found

    async def corrected(
        self, request: CompletionRequest, choice: Mapping[str, Any], problem: str
    ) -> tuple[CompletionRequest, Fitted]:
        """The request that asks again, with what was wrong. Raises UnfitAnswer after the last answer."""
        self.unfit += 1
        error = UnfitAnswer(mask_statuses(problem), answers=self.unfit, param=self.wanted.param)
        if self.unfit >= MOST_ANSWERS:
            raise error
        prompt = request.prompt
        assert isinstance(prompt, ChatPrompt)
        messages = with_correction(prompt.messages, choice.get("message") or {}, self.wanted, problem)
        again = replace(request, prompt=replace(prompt, messages=messages)).adapted(self.template)
        try:
            return again, await fit(again, self.counter, self.limits)
        except PromptTooLong:
            raise error from None
