"""Each client's recipe has the address, the key, the model and the limits where that client reads them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.clients.recipes import ANY_KEY, RECIPES, ProxyDetails, recipe

TO = ProxyDetails("http://127.0.0.1:8080", "qwen-9", 61234, 4321)
WITH_KEY = ProxyDetails("http://127.0.0.1:8080", "qwen-9", 61234, 4321, key="sk-canary")
NAMES = sorted(RECIPES)

#: Clients whose files have no limit: llm and the SDKs have no such setting; Cline's is in its extension.
WITHOUT_LIMITS = {"llm", "openai", "anthropic", "cline"}


def everything(name: str, to: ProxyDetails) -> str:
    """All that a user sees of a recipe, but for its notes."""
    made = recipe(name, to)
    return "\n".join([*(file.text() for file in made.files), *made.environ.values(), *made.steps])


def test_there_are_the_clients_that_people_use() -> None:
    assert set(NAMES) == {
        *("claude-code", "codex", "opencode", "pi", "qwen-code", "aider"),
        *("llm", "cline", "continue", "zed", "openai", "anthropic"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_where_the_proxy_is(name: str) -> None:
    said = everything(name, TO)
    assert TO.url in said
    assert (TO.base_url in said) != (name in {"claude-code", "anthropic"})


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_model_and_limits(name: str) -> None:
    made = recipe(name, TO)
    said = everything(name, TO) + " ".join([*made.start, *made.notes])
    assert TO.model in said
    if name not in WITHOUT_LIMITS:
        assert str(TO.window) in everything(name, TO)
        assert (str(TO.output) in said) != (name == "codex"), "Codex sends no limit of its own"


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_there_but_never_on_a_command_line(name: str) -> None:
    made = recipe(name, WITH_KEY)
    assert "sk-canary" in everything(name, WITH_KEY)
    commands = [*made.start, *(made.launch.command if made.launch else ())]
    assert not any("sk-canary" in word for word in commands)
    if made.launch is not None:
        assert "sk-canary" in " ".join(made.launch.environ.values())


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"codex", "llm"}))
def test_without_keys_any_key_will_do(name: str) -> None:
    assert ANY_KEY in everything(name, TO)


@pytest.mark.parametrize("to", [TO, WITH_KEY])
@pytest.mark.parametrize("name", NAMES)
def test_files_are_what_they_are_called_and_merging_twice_changes_nothing(
    name: str, to: ProxyDetails
) -> None:
    read: dict[str, Any] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
    for file in recipe(name, to).files:
        text = file.text()
        assert read[file.names[0].rpartition(".")[2].replace("yml", "yaml")](text)
        assert file.merged(text) == text


def test_what_codex_is_launched_with_equals_its_file() -> None:
    made = recipe("codex", TO)
    assert made.launch is not None
    options = made.launch.command[2::2]
    assert tomllib.loads("\n".join(options)) == tomllib.loads(made.files[0].text())


def test_a_window_that_is_too_small_for_claude_code_is_told() -> None:
    small = ProxyDetails(TO.url, TO.model, 32768, 4096, headroom=4096)
    assert any("compacts all the time" in note for note in recipe("claude-code", small).notes)
    assert not recipe("claude-code", ProxyDetails(TO.url, TO.model, 64000, 4096, headroom=4096)).notes


@pytest.mark.parametrize("name", ["claude-code", "qwen-code"])
def test_a_headroom_is_suggested_to_those_whose_compaction_is_longer(name: str) -> None:
    assert any("compaction_headroom_tokens" in note for note in recipe(name, TO).notes)


# --- the documents

ROOT = Path(__file__).parents[3]
#: What the documents are written for: `make run`, with the limit of the README's example.
SHOWN = ProxyDetails("http://127.0.0.1:8080", "tiny", 60000, 4096)


@pytest.mark.parametrize("name", [name for name in NAMES if recipe(name, SHOWN).files])
def test_docs_show_what_is_printed(name: str) -> None:
    document = (ROOT / "docs/agents.md").read_text()
    section = document.split(f"\n## {RECIPES[name][0]}\n")[1].split("\n## ")[0]
    made = recipe(name, SHOWN)
    for file in made.files:
        assert f"`{file.usual_path}`" in section
        assert f"\n{file.text()}```\n" in section
    if made.start:
        assert f"`{' '.join(made.start)}`" in section
    for variable, value in made.environ.items():
        assert made.either or f"`export {variable}={value}`" in section


def test_the_readme_shows_what_is_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    (entry,) = recipe("llm", SHOWN).files
    assert f"```yaml\n{entry.text()}```" in readme
    made = recipe("openai", SHOWN)
    assert f'OpenAI(base_url="{SHOWN.base_url}", api_key="{made.environ["OPENAI_API_KEY"]}")' in readme
