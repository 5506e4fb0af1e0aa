"""Finding the line of a key, also behind values that look like TOML themselves."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.toml_lines import line_of, lines

HARD = '''\
# [not.a.table]
top = 1
[server]                 # a comment with key = 1
port = 9000
"quoted key" = """
[inside]
host = "text"
""\\"
"""
'literal' = \'\'\'
a = 1
\'\'\'
dotted . name = { host = "inline = [", list = [1, 2] }
list = [
  "a]", # ]
  'b = "',
]
[ log . "files" ]
level = "info"
[[runs]]
name = "last" '''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("server",), 3),
        (("server", "port"), 4),
        (("server", "quoted key"), 5),
        (("server", "literal"), 10),
        (("server", "dotted"), 13),
        (("server", "dotted", "name"), 13),
        (("server", "list"), 14),
        (("log",), 18),
        (("log", "files"), 18),
        (("log", "files", "level"), 19),
        (("runs",), 20),
        (("runs", "name"), 21),
    ],
)
def test_lines_of_a_hard_document(path: tuple[str, ...], line: int) -> None:
    tomllib.loads(HARD)
    assert lines(HARD)[path] == line


def test_nothing_inside_values_is_taken_for_a_key() -> None:
    assert not {name for path in lines(HARD) for name in path} & {"not", "inside", "host", "key", "a", "b"}


def test_a_key_in_an_inline_table_is_on_the_line_around_it() -> None:
    assert line_of(lines(HARD), ("server", "dotted", "name", "host")) == 13
    assert line_of(lines(HARD), ("queue", "max_waiting")) is None


VALUES = st.sampled_from(
    [
        "1",
        '"a = 1 # ["',
        "'[x]'",
        '"""\n[t]\nk = 1\n"""',
        "'''\n\"\"\"\n'''",
        '"\\"]\\\\"',
        "[\n  1, # ]\n  [2],\n]",
        '{ a = "}", b = [1] }',
        '""',
        '""""quoted""""',
    ]
)
BETWEEN = st.sampled_from(["", "\n", "# k = 1\n", "  # [t]\n\n", "\t\n"])
STATEMENTS = st.lists(st.tuples(BETWEEN, VALUES), max_size=12)


@given(tables=st.lists(STATEMENTS, max_size=4), newline=st.sampled_from(["\n", "\r\n"]))
def test_every_key_is_found_where_it_was_put(tables: list[list[tuple[str, str]]], newline: str) -> None:
    document, expected = "", {}
    for number, statements in enumerate(tables):
        document += f"[t{number}] # [x]\n"
        expected[(f"t{number}",)] = document.count("\n")
        for position, (between, value) in enumerate(statements):
            document += between
            expected[(f"t{number}", f"k{position}")] = document.count("\n") + 1
            document += f"k{position} = {value}\n"
    document = document.replace("\n", newline)
    tomllib.loads(document)
    assert lines(document) == expected
