"""Pure. A configuration file of a client: where it lies, what a recipe says in it, and how that is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from proxy.clients import json_text, toml_text, yaml_text
from proxy.clients.merging import with_defaults

_FORMATS: Mapping[str, ModuleType] = {
    "json": json_text,
    "jsonc": json_text,
    "toml": toml_text,
    "yaml": yaml_text,
    "yml": yaml_text,
}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file of a client.

    `folders`: where the client looks, as `~/.codex` or `$CODEX_HOME`; the first one whose variable is set
    counts, and `macos:` before one is for that platform only. `names`: the first that exists, else the first.
    `values`: what is set. `defaults`: what a file must have too, and keeps if it has it.
    """

    folders: tuple[str, ...]
    names: tuple[str, ...]
    values: Any
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def candidates(self, environ: Mapping[str, str], home: str, platform: str) -> tuple[str, ...]:
        """The absolute paths that the client reads, in its order. `platform`: as `sys.platform`."""
        for pattern in self.folders:
            folder = pattern.removeprefix("macos:")
            if folder != pattern and platform != "darwin":
                continue
            if folder.startswith("$"):
                variable, slash, rest = folder[1:].partition("/")
                if not environ.get(variable):
                    continue
                folder = environ[variable].rstrip("/") + slash + rest
            return tuple(f"{folder.replace('~', home, 1)}/{name}" for name in self.names)
        raise ValueError(f"no folder of {self.names[0]} holds without variables")

    @property
    def usual_path(self) -> str:
        """The path without variables, as documents name it."""
        folder = next(each for each in self.folders if each.startswith("~"))
        return f"{folder}/{self.names[0]}"

    def text(self) -> str:
        """The content of a new file."""
        return self.merged("")

    def merged(self, existing: str) -> str:
        """The existing text with the values in it. Raises NotMergeable."""
        form = _FORMATS[self.names[0].rpartition(".")[2]]
        text = existing if existing.strip() else ""
        values = self.values
        if isinstance(values, dict):
            values = with_defaults(form.parse(text), values, self.defaults)
        merged: str = form.merge(text, values)
        return merged
