"""Pure. What translating a request gives, with its faults under the client's own names for the fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.dialects.form import AnswerForm
from proxy.errors import InvalidRequest
from proxy.request.completion import Bounds, CompletionRequest
from proxy.request.fields import refuse
from proxy.request.mends import Mends
from proxy.request.parse import chat_request
from proxy.stream.answer import Answer

#: A field of a message or a tool, as faults of chat requests name it.
_PLACE = re.compile(r"(?:messages|tools)\[\d+\]")


@dataclass(frozen=True, slots=True)
class Translation:
    """A request in the terms of the chat API.

    Attributes:
        request: what the journey works on.
        form: makes the answer's form of the answer's identity and the number of prompt tokens.
        left_out: what the model is not told of, by names that the client knows: hosted tools, formats.
        id_prefix: how the answer's id begins; None for the child's own.
    """

    request: CompletionRequest
    form: Callable[[Answer, int], AnswerForm]
    left_out: tuple[str, ...] = ()
    id_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class ChatBody:
    """The fields of an equal chat request. `origins`: where its messages, tools and fields came from."""

    fields: dict[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)

    def request(self, bounds: Bounds, mends: Mends) -> CompletionRequest:
        """Check it as any chat request is checked. Raises InvalidRequest in the client's own names."""
        try:
            return chat_request(self.fields, bounds, mends)
        except InvalidRequest as error:
            origin = self._origin(error.param)
            if origin is None:
                raise
            fault = error.message[error.message.index("` ") + 2 :].removesuffix(".")
            refuse(origin, fault)

    def _origin(self, param: str | None) -> str | None:
        """The client's name for a field of the chat request; None if it has the same."""
        if param is None:
            return None
        place = _PLACE.match(param)
        return self.origins.get(place[0] if place else param.partition("[")[0].partition(".")[0])


def numbered(name: str, origins: Sequence[str]) -> dict[str, str]:
    """The origins of the items of a list: `messages[0]` came from `origins[0]`."""
    return {f"{name}[{index}]": origin for index, origin in enumerate(origins)}
