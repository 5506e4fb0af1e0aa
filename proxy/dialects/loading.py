"""Pure. Reads the fields of a body into the typed form of its protocol; faults are named by field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.request.fields import refuse

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
