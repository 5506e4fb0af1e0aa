from __future__ import annotations

from typing import Any

import pytest
from jinja2 import Undefined
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from proxy.worker.jinja_speedup import fast_lookups

NAMES = ("role", "missing", "items", "get", "keys", "pop", "__class__", "_hidden", "first", "index0", "", "0")


class Odd(dict[str, Any]):
    role = "attribute"


class Strict(Undefined):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raise UndefinedError(f"{self._undefined_name} of {self._undefined_obj!r}")


OBJECTS: tuple[Any, ...] = (
    {"role": "user", "get": "a key", "_hidden": 1, "first": None, "": 0},
    {},
    Odd(role="key", missing="key"),
    ["role"],
    "role",
    None,
    7,
)


@pytest.mark.parametrize("environment", [SandboxedEnvironment(), ImmutableSandboxedEnvironment()])
@pytest.mark.parametrize("thing", OBJECTS, ids=repr)
def test_a_lookup_finds_what_the_sandbox_finds(environment: SandboxedEnvironment, thing: Any) -> None:
    for name in NAMES:
        slow = environment.getattr(thing, name)
        with fast_lookups():
            quick = environment.getattr(thing, name)
        assert type(quick) is type(slow)
        if isinstance(slow, Undefined):
            parts = ("_undefined_obj", "_undefined_name", "_undefined_exception", "_undefined_hint")
            assert [getattr(quick, part) for part in parts] == [getattr(slow, part) for part in parts]
        elif not callable(slow):
            assert quick is slow


def test_the_environments_own_undefined_is_asked() -> None:
    with fast_lookups(), pytest.raises(UndefinedError, match="role"):
        ImmutableSandboxedEnvironment(undefined=Strict).getattr({}, "role")


ALL = """
{%- for m in messages %}{{ loop.index0 }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}
{{- loop.previtem }}{{ loop.nextitem }}{{ m.role }}{{ m.get('content') }}{{ m.none or 'none' }}
{{- m.items() | list }}{{ loop.cycle('a', 'b') }}{{ loop.nothing }}{% endfor %}"""


def test_a_template_renders_as_without() -> None:
    template = ImmutableSandboxedEnvironment().from_string(ALL)
    messages = [{"role": f"r{number}", "content": "{x}", "items": 1} for number in range(3)]
    plain = template.render(messages=messages)
    with fast_lookups():
        assert template.render(messages=messages) == plain
    assert template.render(messages=messages) == plain


@pytest.mark.parametrize(
    "unsafe", ["{{ m.pop('role') }}", "{{ m.__class__.mro() }}", "{{ loop._iterable() }}"]
)
def test_what_the_sandbox_forbids_stays_forbidden(unsafe: str) -> None:
    template = ImmutableSandboxedEnvironment().from_string(
        "{% for m in messages %}" + unsafe + "{% endfor %}"
    )
    for _ in range(2):
        with fast_lookups(), pytest.raises(SecurityError):
            template.render(messages=[{"role": "user"}])


def test_nothing_is_left_behind() -> None:
    before = SandboxedEnvironment.getattr
    with pytest.raises(ValueError, match="out"), fast_lookups():
        assert SandboxedEnvironment.getattr is not before
        raise ValueError("out")
    assert SandboxedEnvironment.getattr is before
