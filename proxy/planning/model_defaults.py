"""What the model's own files say of how it wants to be asked: sampling defaults, and thinking switches.

Thinking models loop when they are decoded greedily, which is the server's default; their
generation_config.json says what they were made for. The server does not read it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.errors import InvalidRequest
from proxy.request import sampling

log = logging.getLogger("mlxguard.preparation")

#: The fields of generation_config.json that the server has, and the server's flag for the same.
_FIELDS = {
    "temperature": "--temp",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "min_p": "--min-p",
    "repetition_penalty": None,
}
#: Variables of chat templates that switch thinking.
_SWITCHES = ("enable_thinking", "thinking", "reasoning_effort", "thinking_budget")

#: A tag of transformers that does not change what is rendered; jinja2 by itself does not know it.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def sampling_defaults(folder: Path, server_args: Sequence[str] = ()) -> dict[str, Any]:
    """The model's sampling fields, without those that flags of the server set; empty if it names none."""
    config = _json(folder / "generation_config.json")
    if config.get("do_sample") is False:
        return {}
    named = {
        name: config[name]
        for name, flag in _FIELDS.items()
        if config.get(name) is not None and not (flag and _is_set(flag, server_args))
    }
    found: dict[str, Any] = {}
    for name, value in named.items():
        try:
            found |= sampling.parse({name: value})
        except InvalidRequest as error:
            log.warning("model_default_ignored", extra={"field": name, "reason": error.message})
    return {name: value for name, value in found.items() if (name, value) not in _WITHOUT_EFFECT}


#: Values that change nothing.
_WITHOUT_EFFECT = (("top_p", 1.0), ("repetition_penalty", 1.0), ("min_p", 0.0))


def thinking_switches(folder: Path) -> tuple[str, ...]:
    """The variables of the chat template that switch thinking; empty where it cannot be read."""
    import jinja2  # noqa: PLC0415 - `check` needs the rest alone
    from jinja2 import meta  # noqa: PLC0415

    source = _template(folder)
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        read = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", source)))
    except jinja2.TemplateError:
        return ()
    return tuple(name for name in _SWITCHES if name in read)


def described(defaults: dict[str, Any]) -> str:
    """What is sampled by where a request names nothing: the model's defaults, or the server's."""
    shown = ", ".join(f"{name} {value:g}" for name, value in defaults.items())
    return f"{shown or 'the defaults of the server'} where a request names none"


def _is_set(flag: str, server_args: Sequence[str]) -> bool:
    return any(arg.partition("=")[0] == flag for arg in server_args)


def _template(folder: Path) -> str:
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        source = _json(folder / "tokenizer_config.json").get("chat_template")
        return source if isinstance(source, str) else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
