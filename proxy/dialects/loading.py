"""Pure. Reads a body of a dialect: JSON first, then the typed form of the protocol, faults named by field."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.errors import InvalidRequest
from proxy.request.fields import mapping, refuse, too_deep
from proxy.request.messages import DEEPEST

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: The escape of a NUL: after an even number of backslashes, since those escape each other.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

#: What a field must be, by pydantic's name for the fault.
_FAULTS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be an integer",
}


class Form(BaseModel):
    """A part of a request as its protocol defines it. Fields that are not listed are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


AnyForm = TypeVar("AnyForm", bound=Form)


def load(body: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises InvalidRequest.

    A NUL or half of a surrogate pair becomes U+FFFD: tools put both into results (`cat` of a binary, text cut
    by UTF-16 units), and as the history comes back with each request, refusing them would end the session.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if b"\\u0000" in body:
        body = _NUL.sub(rb"\1\\ufffd", body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _load_surrogates(body)
    fields = mapping(value, None)
    if too_deep(fields, DEEPEST):
        refuse(None, f"body must not nest deeper than {DEEPEST} levels")
    return fields


def _load_surrogates(body: bytes) -> Any:
    """Read the body again without lone surrogates, if these were its only fault. Raises InvalidRequest."""
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The request body must be valid JSON in UTF-8.") from error


def read_form(form: type[AnyForm], fields: dict[str, Any]) -> AnyForm:
    """The typed form of a body. Raises InvalidRequest for its first fault, naming the field."""
    try:
        return form.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return refuse(_path(fault["loc"], fields), _FAULTS.get(fault["type"], "is not valid"))


def _path(steps: Sequence[int | str], fields: dict[str, Any]) -> str:
    """The field as its client would write it: without the names that pydantic gives to kinds of a union."""
    path = ""
    value: Any = fields
    for number, step in enumerate(steps):
        is_last = number == len(steps) - 1
        if isinstance(step, int):
            value = value[step] if type(value) is list and step < len(value) else {}
            path += f"[{step}]"
        elif type(value) is dict and (step in value or is_last):
            value = value.get(step)
            path += f".{step}" if path else step
    return path
