"""proxy.toml as it is written: complete, true to the schema, and pleasant to read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.faults import KEYS
from proxy.config.loader import load
from proxy.config.settings import SECTIONS, Settings
from proxy.config.template import render

COMMITTED = Path(__file__).parents[3] / "proxy.toml"


def uncommented(text: str) -> str:
    return re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)


def test_the_committed_file_is_what_the_schema_says() -> None:
    """If this fails: mlxguard-proxy init --force."""
    assert COMMITTED.read_text(encoding="utf-8") == render({"model.path": "tiny"})


def test_nothing_is_set_by_default() -> None:
    assert tomllib.loads(render({})) == {name: {} for name in SECTIONS}


def test_every_key_is_shown_with_its_default() -> None:
    document = tomllib.loads(uncommented(render({})))
    assert [(section, key) for section, table in document.items() for key in table] == list(KEYS)
    assert Settings.model_validate(document) == Settings()


def test_comments_are_in_one_column_and_lines_are_short() -> None:
    lines = render({}).splitlines()
    settings = [line for line in lines if re.match(r"# \w+ = ", line)]
    assert len(settings) == len(KEYS)
    assert {line.rindex("  # ") for line in settings} == {34}
    assert max(map(len, lines)) <= 110


def test_what_is_set_is_active_and_what_is_long_stands_below_its_comment(tmp_path: Path) -> None:
    values = {
        "server.port": 9000,
        "model.trust_remote_code": True,
        "upstream.args": ["--chat-template-args", '{"enable_thinking": false}', "\\"],
        "upstream.prompt_cache_bytes": "10GB",
        "memory.max_active_memory_bytes": 24 * 10**9,
        "memory.reserve_system_bytes": 2**31,
        "queue.max_wait_s": 1.5,
    }
    text = render(values)
    assert '\nmax_active_memory_bytes = "24GB"' in text
    assert "\nreserve_system_bytes = 2147483648" in text
    assert re.search(r'\n# More flags for it.*\nargs = \["--chat-template-args", ', text)
    (tmp_path / "proxy.toml").write_text(text)
    loaded = load(tmp_path / "proxy.toml", {}, ())
    assert {".".join(key) for key in loaded.places} == set(values)
    assert loaded.settings.upstream.args == tuple(values["upstream.args"])  # type: ignore[arg-type]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives(text: str) -> None:
    assert tomllib.loads(render({"model.revision": text}))["model"]["revision"] == text


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_every_setting_says_what_it_is_for(key: tuple[str, str]) -> None:
    description = SECTIONS[key[0]].model_fields[key[1]].description
    assert description
    assert description.endswith(".")
