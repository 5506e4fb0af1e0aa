"""The child's output: bounded lines, prompts masked, the last lines kept."""

from __future__ import annotations

import logging

import pytest

from supervisor.child.output import LINE_BYTES, RING_LINES, Lines, PromptMask, Transcript, dropped_connection

STAMP = "2026-01-05 10:11:12,345 - "


def masked(*lines: str) -> list[str]:
    mask = PromptMask()
    return [shown for line in lines if (shown := mask(line)) is not None]


def test_raw_bodies_are_masked_with_the_lines_that_continue_them() -> None:
    assert masked(
        STAMP + "INFO - before",
        STAMP + "ERROR - JSONDecodeError: Expecting value - Raw body: {my secret",
        "secret line 2",
        "",
        STAMP + "ERROR - Invalid Request Body: [",
        '\t"secret"',
        "]",
        '127.0.0.1 - - [05/Jan/2026 10:11:12] "POST /v1/chat/completions HTTP/1.1" 400 -',
        "Traceback (most recent call last):",
        "  visible",
    ) == [
        STAMP + "INFO - before",
        STAMP + "ERROR - JSONDecodeError: Expecting value - Raw body: [masked]",
        STAMP + "ERROR - Invalid Request Body: [masked]",
        '127.0.0.1 - - [05/Jan/2026 10:11:12] "POST /v1/chat/completions HTTP/1.1" 400 -',
        "Traceback (most recent call last):",
        "  visible",
    ]


@pytest.mark.parametrize(
    "record",
    [
        "DEBUG - Incoming Request Body: ",
        "DEBUG - Outgoing Response: ",
        "WARNING - Failed to parse tool call (ValueError: ",
    ],
)
def test_other_records_with_text_of_users_or_models_are_masked(record: str) -> None:
    assert masked(STAMP + record + "secret", "secret") == [STAMP + record + "[masked]"]


def test_native_text_after_a_masked_record_is_evidence_and_stays() -> None:
    native = "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] x"
    assert masked(STAMP + "ERROR - JSONDecodeError - Raw body: {", native)[-1] == native


def test_the_ring_is_bounded_and_has_no_health_checks() -> None:
    heard: list[str] = []
    transcript = Transcript(heard.append)
    transcript.feed(b'127.0.0.1 - - [05/Jan/2026 10:11:12] "GET /health HTTP/1.1" 200 -')
    for number in range(RING_LINES + 50):
        transcript.feed(f"line {number}".encode())
    assert len(transcript.lines) == RING_LINES
    assert transcript.lines[-1] == heard[-1] == f"line {RING_LINES + 49}"
    assert heard[0] == "line 0"


def test_undecodable_bytes_are_replaced() -> None:
    transcript = Transcript(lambda line: None)
    transcript.feed(b"caf\xe9 \xf0\x9f")
    assert transcript.lines == ("caf\ufffd \ufffd",)


def test_levels_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    transcript = Transcript(lambda line: None)
    with caplog.at_level(logging.DEBUG, "mlxguard.child"):
        transcript.feed(f"{STAMP}INFO - Prompt Cache: 1 sequences, 0.00 GB".encode())
        transcript.feed(b'127.0.0.1 - - [05/Jan/2026 10:11:12] "POST /v1/completions HTTP/1.1" 200 -')
        transcript.feed(
            b"/x/mlx_lm/server.py:1894: UserWarning: mlx_lm.server is not recommended for production"
        )
        transcript.feed(b"  warnings.warn(")
        transcript.feed(f"{STAMP}ERROR - mlx_lm.server generation thread died: x".encode())
        transcript.feed(b"libc++abi: terminating")
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.DEBUG] * 4 + [logging.WARNING] * 2
    assert {record.getMessage() for record in caplog.records} == {"child_output"}


async def test_lines_come_whole_however_they_are_cut() -> None:
    got: list[bytes] = []
    lines = Lines(got.append)
    for piece in (b"on", b"e\ntwo\nthr", b"ee", b"\n\nlast"):
        lines.data_received(piece)
    lines.connection_lost(None)
    assert got == [b"one", b"two", b"three", b"", b"last"]
    assert lines.ended.done()


async def test_an_endless_line_is_cut_once_and_holds_no_memory() -> None:
    got: list[bytes] = []
    lines = Lines(got.append)
    for _ in range(100):
        lines.data_received(b"x" * 1000)
    lines.data_received(b"\nnext\n")
    assert got == [b"x" * LINE_BYTES, b"next"]
    lines.data_received(b"y" * (2 * LINE_BYTES) + b"\nz\n")
    assert got[2:] == [b"y" * LINE_BYTES, b"z"]


def connection_error(last: str) -> list[str]:
    """What the server writes when a connection's thread raised, here ended by `last`."""
    rule = "-" * 40
    head = "Exception occurred during processing of request from ('127.0.0.1', 5)"
    return [rule, head, "Traceback (most recent call last):", '  File "socketserver.py"', last, rule]


@pytest.mark.parametrize(
    ("last", "level"),
    [
        ("ConnectionResetError: [Errno 104] Connection reset by peer", logging.DEBUG),
        ("BrokenPipeError: [Errno 32] Broken pipe", logging.DEBUG),
        ("KeyError: 'include_usage'", logging.WARNING),
    ],
)
def test_a_disconnected_client_is_logged_at_debug_and_other_errors_as_warnings(
    caplog: pytest.LogCaptureFixture, last: str, level: int
) -> None:
    heard: list[str] = []
    transcript = Transcript(heard.append)
    with caplog.at_level(logging.DEBUG, "mlxguard.child"):
        for line in [*connection_error(last), "a native error after it"]:
            transcript.feed(line.encode())
    assert [record.levelno for record in caplog.records] == [level] * 6 + [logging.WARNING]
    assert heard == list(transcript.lines) == [*connection_error(last), "a native error after it"]


def test_a_connection_that_the_server_dropped_is_known_by_its_port() -> None:
    line = "Exception occurred during processing of request from ('127.0.0.1', 43730)"
    assert dropped_connection(line) == 43_730
    assert dropped_connection("Exception occurred during processing of request from ('10.0.0.1', 4)") is None
    assert dropped_connection(f"2026-01-01 00:00:00,000 - INFO - {line}") is None


def test_a_rule_without_an_end_does_not_delay_the_log_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transcript = Transcript(lambda line: None)
    for number in range(100):
        transcript.feed(b"-" * 40 if not number else b"line %d" % number)
    assert len(caplog.records) == 100
