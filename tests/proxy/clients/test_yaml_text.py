"""YAML keeps all that a merge does not set."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from proxy.clients import yaml_text
from proxy.clients.merging import NotMergeable, overlaid

MODEL = {"name": "tiny (mlx)", "model": "tiny", "uses": ["tool_use"], "limits": {"context": 60000}}
CONTINUE = """name: Mine  # keep
models:
  # the first
  - name: other
    model: big
    limits:
      context: 1

  - name: tiny (mlx)
    model: old # once
context:
  - provider: diff
"""


def test_a_new_file() -> None:
    assert yaml_text.render({"name": "Local", "version": "1.0.0", "on": True, "models": [MODEL]}) == (
        "name: Local\n"
        'version: "1.0.0"\n'
        "on: true\n"
        "models:\n"
        '  - name: "tiny (mlx)"\n'
        "    model: tiny\n"
        '    uses: ["tool_use"]\n'
        "    limits:\n"
        "      context: 60000\n"
    ).replace("on: true", "on: true")


def test_other_entries_and_comments_stay() -> None:
    merged = yaml_text.merge(CONTINUE, {"models": [MODEL]})
    assert merged == CONTINUE.replace(
        "    model: old # once\n",
        '    model: tiny # once\n    uses: ["tool_use"]\n    limits:\n      context: 60000\n',
    )
    assert yaml_text.merge(merged, {"models": [MODEL]}) == merged


def test_an_entry_is_added_to_a_list() -> None:
    text = "- model_id: a\n  api_base: x\n\n# the end"
    merged = yaml_text.merge(text, [{"model_id": "b", "api_base": "y"}])
    assert merged == "- model_id: a\n  api_base: x\n- model_id: b\n  api_base: y\n\n# the end\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "a: 1",
        "models:\n",
        "models: []\n",
        "models:\n- name: other\n  text: |\n    a\n    b\nlast: |\n  c\n",
        "models:\n  - {name: other, model: x}\n",
        "models: # none\nz: 1\n",
    ],
)
def test_whatever_its_layout_nothing_is_lost(text: str) -> None:
    values = {"models": [MODEL], "model": "openai/tiny"}
    merged = yaml_text.merge(text, values)
    assert yaml.safe_load(merged) == overlaid(yaml.safe_load(text) or {}, values)
    assert yaml_text.merge(merged, values) == merged


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "models: {x: 1}",
        "models: [{name: other}]",
        "- a\n",
        "models: &x\n- name: tiny (mlx)\n  model: old\nz: *x\n",
        "a: !python/object:x 1",
    ],
)
def test_what_is_not_understood_is_left_alone(text: str) -> None:
    with pytest.raises(NotMergeable):
        yaml_text.merge(text, {"models": [MODEL]})


@pytest.mark.parametrize(
    "value", ["any", "on", "null", "1", "1.0.0", "a: b", "http://127.0.0.1:8080/v1", "- a", "", "é", True, 3]
)
def test_scalars_mean_themselves(value: Any) -> None:
    assert yaml.safe_load(yaml_text.render({"key": value})) == {"key": value}
