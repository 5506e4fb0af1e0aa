"""Pure. Tools of a Responses request as functions of the chat API, and calls back in the client's kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy.dialects.arguments import INPUT, arguments_object
from proxy.dialects.responses.forms import ToolForm


@dataclass(frozen=True, slots=True)
class CallTarget:
    """What a function of the chat request stands for."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class FunctionTable:
    """The functions of one request.

    Attributes:
        offered: as chat has them.
        origins: where each came from in the client's request.
        left_out: tools that only OpenAI can run.
    """

    offered: list[dict[str, Any]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _targets: dict[str, CallTarget] = field(default_factory=dict)
    _names: dict[tuple[str | None, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, tools: Sequence[ToolForm]) -> FunctionTable:
        table = cls()
        for namespace, tool, origin in _flattened(tools):
            if tool.type not in ("function", "custom"):
                table.left_out.append(f"tool {tool.name or tool.type}")
                continue
            # A name that is taken gets its namespace in front, joined as MCP clients join theirs.
            name = tool.name or ""
            if name in table._targets and namespace is not None:
                name = f"{namespace}__{name}"
            kind: Literal["function", "custom"] = "custom" if tool.type == "custom" else "function"
            table._targets[name] = CallTarget(kind, tool.name or "", namespace)
            table._names[namespace, tool.name or ""] = name
            function = _custom(tool) if kind == "custom" else {"parameters": tool.parameters}
            described = {"name": name, "description": tool.description, **function}
            present = {key: value for key, value in described.items() if value is not None}
            table.offered.append({"type": "function", "function": present})
            table.origins.append(origin)
        return table

    def name(self, name: str, namespace: str | None = None) -> str:
        """The function's name in the chat request; the client's own for a tool that is no longer there."""
        return self._names.get((namespace, name), name)

    def target(self, name: str) -> CallTarget:
        """What a call of this name is for the client; a name that was not offered is a plain function's."""
        return self._targets.get(name, CallTarget("function", name))

    def choice(self, wanted: Any) -> Any:
        """`tool_choice` of the chat API. A tool that was left out cannot be forced."""
        if type(wanted) is not dict:
            return wanted if wanted in ("none", "required") else "auto"
        if wanted.get("type") == "allowed_tools":
            return "required" if wanted.get("mode") == "required" else "auto"
        name = self.name(str(wanted.get("name")), wanted.get("namespace"))
        if wanted.get("type") in ("function", "custom") and name in self._targets:
            return {"type": "function", "function": {"name": name}}
        return "auto"


def _flattened(tools: Sequence[ToolForm]) -> Iterator[tuple[str | None, ToolForm, str]]:
    """Each tool with its namespace and the field that it came from; plain tools keep their names."""
    for index, tool in enumerate(tools):
        if tool.type != "namespace":
            yield None, tool, f"tools[{index}]"
    for index, tool in enumerate(tools):
        if tool.type == "namespace":
            for inner, each in enumerate(tool.tools or ()):
                yield tool.name, each, f"tools[{index}].tools[{inner}]"


def _custom(tool: ToolForm) -> dict[str, Any]:
    """A custom tool as a function with one text. Its grammar is told; generation is not held to it."""
    form = tool.format or {}
    grammar, syntax = form.get("definition"), form.get("syntax")
    described = tool.description or ""
    if type(grammar) is str:
        described = f"{described}\n\nThe input must match this {syntax or 'lark'} grammar:\n{grammar}".strip()
    parameters = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}
    return {"description": described or None, "parameters": parameters}


def custom_input(arguments: str) -> str:
    """The input of a custom tool's call from the arguments of the function that stands for it.

    A model that does not keep to the schema may write the input itself, or under another name.
    """
    given = arguments_object(arguments)
    value = given.get(INPUT, next(iter(given.values()), None) if len(given) == 1 else None)
    return value if type(value) is str else arguments if given else ""
