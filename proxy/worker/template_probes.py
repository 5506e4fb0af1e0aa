"""Finds out what a chat template takes, by rendering small conversations. For worker processes.

Each probe is a conversation that differs from an accepted one in a single respect. A template passes it if it
renders, and if the text in question is in what it rendered: some templates raise for a second system message,
others lose it in silence. `proxy/request/adapt.py` adapts conversations to what was found.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable
from typing import Any

from proxy.request.thinking import EFFORTS
from proxy.worker.segment_check import time_limit

#: Seconds for all probes; a template that takes longer is taken to accept everything.
_PROBING_S = 3.0

#: Words that no template contains; a probe looks for them in the rendered text.
_FIRST, _SECOND, _SAID, _RESULT, _TOOL = "zuvalek", "qomirat", "wepidox", "hatunif", "jolopev"
_UUID = "0b9f8a4e-53c2-4d51-9a3e-6f1d2c7b8e90"

#: Arguments that templates read to turn thinking on and off.
_SWITCHES = ("enable_thinking", "thinking")

Prompt = dict[str, Any]
Render = Callable[[Prompt], str]


def probe_template(render: Render) -> dict[str, Any]:
    """The fields of `TemplateTraits`. `render` may raise anything."""
    try:
        with time_limit(_PROBING_S):
            return _probe(render)
    except TimeoutError:
        return {}


def _probe(render: Render) -> dict[str, Any]:
    try:
        plain, needed = _plain(render)
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - a template raises what it likes
        return {"renders": False, "error": f"{type(error).__name__}: {error}"}

    def takes(*messages: dict[str, Any], shows: str = "", tools: tuple[Any, ...] = needed) -> bool:
        try:
            return shows in render({"messages": list(messages), "tools": list(tools)})
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001
            return False

    objects = takes(_user(), _call(), _result(), _assistant(), _user())
    calls = objects or takes(_user(), _call(arguments="{}"), _result(), _assistant(), _user())
    shown = takes(_user(), shows=_TOOL, tools=(_tool(),))
    traits = {
        "system": takes(_system(), _user(), shows=_FIRST),
        "two_systems": takes(_system(), _system(_SECOND), _user(), shows=_FIRST)
        and takes(_system(), _system(_SECOND), _user(), shows=_SECOND),
        "later_system": takes(_user(), _assistant(), _system(_SECOND), _user(), shows=_SECOND)
        and takes(_system(), _user(), _assistant(), _system(_SECOND), _user(), shows=_SECOND),
        "consecutive_users": takes(_user(), _user()) and takes(_user(), _assistant(), _assistant(), _user()),
        "assistant_first": takes(_assistant(), _user()),
        "empty_assistant": takes(_user(), _assistant(""), _user()),
        "no_user": all(
            takes(*messages, tools=tools)
            for messages in ((_system(),), (_assistant(),), (_system(), _assistant()))
            for tools in ((needed, (_tool(),)) if takes(_user(), tools=(_tool(),)) else (needed,))
        ),
        "calls": calls,
        "object_arguments": objects or not calls,
        "tools": shown,
        **_arguments(render, needed),
        "dated": _dated(plain),
    }
    if objects:
        traits |= {
            "parallel_calls": takes(
                _user(), _calls(), _result(), _result("abcDEF124"), _assistant(), _user()
            ),
            "user_after_result": takes(_user(), _call(), _result(), _user()),
            "unanswered_call": takes(_user(), _call(), _user()),
            "orphan_result": takes(_user(), _result(), shows=_RESULT)
            and takes(_user(), _assistant(), _result(), shows=_RESULT),
            "long_ids": takes(_user(), _call(_UUID), _result(_UUID), _assistant(), _user()),
            "other_arguments": takes(_user(), _call(arguments=None), _result(), _assistant(), _user())
            and takes(_user(), _call(arguments=[1]), _result(), _assistant(), _user()),
        }
    if takes(_user(), tools=(_tool(),)):
        traits |= {
            "undescribed_tools": takes(_user(), tools=(_tool("description"),)),
            "tools_without_parameters": takes(_user(), tools=(_tool("parameters"),)),
        }
    return traits


def _arguments(render: Render, needed: tuple[Any, ...]) -> dict[str, Any]:
    """What the template reads of the arguments that switch thinking: whether it renders differently."""

    def shown(**arguments: Any) -> tuple[str | None, ...]:
        """A conversation, rendered with tools and without, with thinking as it is and on."""
        texts: list[str | None] = []
        for tools, more in itertools.product((needed, (_tool(),)), ({}, dict.fromkeys(_SWITCHES, True))):
            prompt = {
                "messages": [_user()],
                "tools": list(tools),
                "chat_template_kwargs": {**more, **arguments},
            }
            try:
                texts.append(render(prompt))
            except TimeoutError:
                raise
            except Exception:  # noqa: BLE001 - a template raises what it likes
                texts.append(None)
        return tuple(texts)

    unknown = shown(reasoning_effort=_FIRST)
    efforts = {effort: shown(reasoning_effort=effort) for effort in EFFORTS}
    taken = [effort for effort, texts in efforts.items() if any(texts)]
    known = [effort for effort in taken if efforts[effort] != unknown]
    if any(text and _FIRST in text for text in unknown):  # it writes any word: these are what models know
        taken = known = ["low", "medium", "high"]
    return {
        "switches": [name for name in _SWITCHES if shown(**{name: True}) != shown(**{name: False})],
        "efforts": taken if known else [],
        "known_efforts": known,
        "thinking_budget": shown(thinking_budget=0) != shown(thinking_budget=512),
    }


def _plain(render: Render) -> tuple[str, tuple[Any, ...]]:
    """A conversation of one message and its tools: none, or one where the template renders none without."""
    try:
        return render({"messages": [_user()]}), ()
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001
        return render({"messages": [_user()], "tools": [_tool()]}), (_tool(),)


def _dated(text: str) -> bool:
    today = datetime.datetime.now().astimezone()
    return any(today.strftime(form) in text for form in ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%B %d, %Y"))


def _system(text: str = _FIRST) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _user() -> dict[str, Any]:
    return {"role": "user", "content": _SAID}


def _assistant(text: str = _SAID) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _call(identity: str = "abcDEF123", arguments: Any = ...) -> dict[str, Any]:
    function = {"name": _TOOL, "arguments": {"path": "."} if arguments is ... else arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": identity, "function": function}],
    }


def _calls() -> dict[str, Any]:
    first, second = _call(), _call("abcDEF124")
    return {**first, "tool_calls": first["tool_calls"] + second["tool_calls"]}


def _result(identity: str = "abcDEF123") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": _RESULT}


def _tool(without: str = "") -> dict[str, Any]:
    function = {
        "name": _TOOL,
        "description": "Lists files.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    }
    function.pop(without, None)
    return {"type": "function", "function": function}
