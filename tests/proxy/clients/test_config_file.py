"""Where a client looks for its file, and what is in it."""

from __future__ import annotations

import pytest

from proxy.clients.config_file import ConfigFile

FILE = ConfigFile(
    ("$TOOL_HOME", "macos:~/Library/tool", "$XDG_CONFIG_HOME/tool", "~/.config/tool"),
    ("tool.json", "tool.jsonc"),
    {"a": 1},
    {"version": 2},
)


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({}, "linux", "/home/me/.config/tool"),
        ({}, "darwin", "/home/me/Library/tool"),
        ({"XDG_CONFIG_HOME": "/x/"}, "linux", "/x/tool"),
        ({"XDG_CONFIG_HOME": ""}, "linux", "/home/me/.config/tool"),
        ({"XDG_CONFIG_HOME": "/x", "TOOL_HOME": "~/t"}, "linux", "/home/me/t"),
        ({"TOOL_HOME": "/t"}, "darwin", "/t"),
    ],
)
def test_the_first_folder_that_holds_counts(environ: dict[str, str], platform: str, folder: str) -> None:
    assert FILE.candidates(environ, "/home/me", platform) == (f"{folder}/tool.json", f"{folder}/tool.jsonc")


def test_documents_name_the_usual_path() -> None:
    assert FILE.usual_path == "~/.config/tool/tool.json"


def test_a_new_file_has_the_defaults_and_an_old_one_keeps_its_own() -> None:
    assert FILE.text() == FILE.merged(" \n") == '{"version": 2, "a": 1}\n'
    assert FILE.merged('{"version": 1}') == '{"version": 1, "a": 1}'
    assert FILE.merged("{}") == '{\n  "version": 2,\n  "a": 1\n}'
