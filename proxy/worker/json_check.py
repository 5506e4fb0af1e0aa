"""Checks JSON values against JSON Schemas. For worker processes.

Schemas come from clients. A pattern in one may keep Python's regular expressions busy for ever, so they are
checked here, where a time limit holds and the process can be replaced, and never in the gateway. Nothing is
fetched: a reference to another document cannot be resolved.
"""

from __future__ import annotations

from typing import Any

from proxy.worker.segment_check import time_limit

#: Seconds for one check; real ones take milliseconds.
_CHECKING_S = 2.0
#: Longest text about a problem, in characters: it may quote the value.
_LONGEST_PROBLEM = 300


class BadSchema(Exception):
    """The schema is none, or cannot be applied; the text says why."""


def json_problem(schema: dict[str, Any], value: Any) -> str | None:
    """What of `value` is not valid by `schema`; None if all is. Raises BadSchema."""
    # Imported here: it takes a tenth of a second, and few requests need it.
    import jsonschema  # noqa: PLC0415
    from jsonschema_specifications import REGISTRY  # noqa: PLC0415

    validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        with time_limit(_CHECKING_S):
            validator_class.check_schema(schema)
            errors = validator_class(schema, registry=REGISTRY).iter_errors(value)
            error = jsonschema.exceptions.best_match(errors)
    except TimeoutError:
        raise BadSchema("checking it takes too long") from None
    except Exception as fault:
        # A SchemaError, a reference that cannot be resolved, a pattern that is none, too deep a recursion.
        raise BadSchema(
            f"{type(fault).__name__}: {getattr(fault, 'message', fault)}"[:_LONGEST_PROBLEM]
        ) from fault
    if error is None:
        return None
    return f"{error.json_path}: {error.message}"[:_LONGEST_PROBLEM]
