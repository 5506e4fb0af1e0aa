"""TOML keeps all that a merge does not set."""

from __future__ import annotations

import tomllib

import pytest

from proxy.clients import toml_text
from proxy.clients.merging import NotMergeable, overlaid

VALUES = {
    "model": "tiny",
    "window": 60000,
    "providers": {"mlx": {"name": "mlx", "url": "http://127.0.0.1:8080/v1"}},
}
CODEX = """# mine
model = "gpt" # the best
notify = [
  "a", # [not.a.table]
]

[providers.other]
name = "other"
# of the next table
[projects."/a b"]
trust = "yes"
"""


def test_a_new_file() -> None:
    assert toml_text.render(VALUES) == (
        'model = "tiny"\nwindow = 60000\n\n[providers.mlx]\nname = "mlx"\nurl = "http://127.0.0.1:8080/v1"\n'
    )


def test_other_statements_and_comments_stay() -> None:
    merged = toml_text.merge(CODEX, VALUES)
    assert merged == "window = 60000\n\n" + CODEX.replace('"gpt" # the', '"tiny"  # the') + (
        '\n[providers.mlx]\nname = "mlx"\nurl = "http://127.0.0.1:8080/v1"\n'
    )
    assert toml_text.merge(merged, VALUES) == merged


def test_a_table_gets_what_it_lacks() -> None:
    text = '[providers.mlx] # ours\nname = """\nold"""\nextra = 1\n\n# next\n[z]\n'
    assert toml_text.merge(text, {"providers": VALUES["providers"]}) == (
        '[providers.mlx] # ours\nname = "mlx"\nextra = 1\nurl = "http://127.0.0.1:8080/v1"\n\n# next\n[z]\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a = 1",
        "[providers]\nx = 1\n",
        "[providers.mlx.http_headers]\nX = '1'\n",
        "providers.other.name = 'x'\n",
        "model = '''a\nb'''\n",
    ],
)
def test_whatever_its_layout_nothing_is_lost(text: str) -> None:
    assert tomllib.loads(toml_text.merge(text, VALUES)) == overlaid(tomllib.loads(text), VALUES)


@pytest.mark.parametrize(
    "text", ["a = ", "providers = { mlx = { name = 'x' } }", "providers = 3", "[model]\nx = 1"]
)
def test_what_is_not_understood_is_left_alone(text: str) -> None:
    with pytest.raises(NotMergeable):
        toml_text.merge(text, VALUES)
