"""Lines for a pipe or a terminal whose reader has paused."""

from __future__ import annotations

import errno
import os
import pty
import select
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from proxy.log.output import Output
from tests.support.unread import Pipe


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.reader, made.writer):
        with suppress(OSError):
            os.close(fd)


def test_lines_that_fit_are_written_at_once(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    assert output.write(b"one\n") == 0
    assert pipe.read() == b"one\n"


def test_lines_are_held_for_a_paused_reader_without_blocking_the_writer(pipe: Pipe) -> None:
    output, filled = Output(pipe.writer), pipe.fill()
    assert [output.write(b"one\n"), output.write(b"two\n")] == [0, 0]
    assert len(pipe.read()) == filled
    assert output.write(b"three\n") == 0
    assert pipe.read() == b"one\ntwo\nthree\n"


def test_a_line_longer_than_the_pipe_arrives_whole(pipe: Pipe) -> None:
    output, filled = Output(pipe.writer), pipe.fill()
    line = b"x" * (filled + 3 * select.PIPE_BUF) + b"\n"
    came = b""
    assert output.write(line) == 0
    assert len(pipe.read()) == filled
    for number in range(3):
        assert output.write(b"%d\n" % number) == 0
        came += pipe.read()
    assert came == line + b"0\n1\n2\n"


def test_lines_beyond_the_limit_are_lost_and_counted(pipe: Pipe) -> None:
    output = Output(pipe.writer, max_held=10)
    pipe.fill()
    assert [output.write(b"12345\n") for _ in range(3)] == [0, 1, 1]
    pipe.read()
    assert output.write(b"6\n") == 0
    assert pipe.read() == b"12345\n6\n"


def test_without_a_reader_all_held_lines_are_lost(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    pipe.fill()
    assert output.write(b"one\n") == 0
    os.close(pipe.reader)
    assert output.write(b"two\n") == 2
    assert output.write(b"three\n") == 1, "and it is tried again"


def test_a_closed_descriptor_loses_its_lines(pipe: Pipe) -> None:
    os.close(pipe.writer)
    output = Output(pipe.writer)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(pipe.writer)
    assert output.write(b"one\n") == 1


def test_close_waits_for_a_paused_reader(pipe: Pipe) -> None:
    output, filled = Output(pipe.writer), pipe.fill()
    output.write(b"one\n")
    came: list[bytes] = []

    def read_on() -> None:
        time.sleep(0.05)  # nearly always, `close` has begun by then; what is asserted holds either way
        came.append(pipe.read())

    reader = threading.Thread(target=read_on)
    reader.start()
    assert output.close(30.0) == 0
    reader.join()
    assert (b"".join(came) + pipe.read())[filled:] == b"one\n"


def test_close_does_not_wait_for_ever(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    pipe.fill()
    output.write(b"one\n")
    output.write(b"two\n")
    assert output.close(0.01) == 2
    assert output.close(0.01) == 0


def test_a_stopped_terminal_does_not_block() -> None:
    """As by Ctrl-S; Ctrl-Q lets it go on."""
    master, terminal = pty.openpty()
    output = Output(terminal)
    termios.tcflow(terminal, termios.TCOOFF)
    for number in range(2_000):
        assert output.write(b"a line of a log, number %d\n" % number) == 0
    termios.tcflow(terminal, termios.TCOON)
    ended = threading.Event()

    def write_on() -> None:
        while not ended.is_set():
            output.write(b"-\n")  # as the next lines of a log would; what was held goes before them
            time.sleep(0.01)

    writer = threading.Thread(target=write_on)
    writer.start()
    came = b""
    while b"number 1999\r\n" not in came:
        came += os.read(master, 1 << 16)
    ended.set()
    writer.join()
    assert came.partition(b"-\r\n")[0].count(b"\r\n") == 2_000
    os.close(master)
    os.close(terminal)
