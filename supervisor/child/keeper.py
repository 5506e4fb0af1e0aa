"""The keeper: a tiny parent process between gateway and child, so that no child ever outlives its gateway.

Run as `python -I -S keeper.py LIFELINE STATUS GRACE_S FD,FD,... COMMAND...` (stdlib only, starts in some 15
ms). LIFELINE is the read end of a pipe whose write end only the gateway holds. Each byte in it is a signal
number for the child's process group; its end means that the gateway has ended, for whatever reason, so that
the child must end too. This works on every POSIX system, unlike PR_SET_PDEATHSIG. Signals go through the
keeper because only a parent knows that the pid has not been reaped and reused by another process.

The keeper writes `pid N` to STATUS at once, then `exit CODE` or `signal N` the moment the child ends. The FDs
(telemetry) are for the child alone.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

#: Signals that are reset to their defaults for the child. A shell that starts a program in the background
#: ignores SIGINT for it, children inherit that, and the server would never see the first step of an orderly
#: stop.
RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT, signal.SIGCHLD)

#: Signals that the keeper ignores, since only the lifeline may end it. (SIGPIPE: the gateway may end during a
#: report.)
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def main(arguments: list[str]) -> int:
    lifeline, status = take(int(arguments[0])), take(int(arguments[1]))
    grace_s = float(arguments[2])
    passed = [int(fd) for fd in arguments[3].split(",") if fd]
    pid = spawn(arguments[4:])
    report(status, f"pid {pid}")
    wake = wake_on_exit()
    close_passed(passed)
    return watch(pid, lifeline, wake, status, grace_s)


def take(fd: int) -> int:
    """Make a private copy: the lowest free number, which select() can handle, and closed on exec."""
    copy = os.dup(fd)
    os.close(fd)
    return copy


def wake_on_exit() -> int:
    """Return the read end of a pipe that becomes readable when the child ends."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reader


def spawn(command: list[str]) -> int:
    """Start the child in its own session, and so in its own process group.

    Signals are blocked in the meantime: one that arrives between fork and exec must not be lost to a
    disposition that the child has not reset yet.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, RESET)
    for number in RESET:
        signal.signal(number, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        return pid
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"mlxguard: cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def close_passed(passed: list[int]) -> None:
    """Close the file descriptors that belong to the child, so that its pipes end when it does."""
    for fd in passed:
        os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def watch(pid: int, lifeline: int, wake: int, status: int, grace_s: float) -> int:
    """Pass signals on until the child ends, or end it when the gateway has ended."""
    while True:
        ended = reap(pid)
        if ended is not None:
            signal_group(pid, signal.SIGKILL)  # processes that the child left behind in its group
            report(status, ended)
            return 0
        readable, _, _ = select.select([lifeline, wake], [], [])
        if wake in readable:
            os.read(wake, 512)
        elif lifeline in readable:
            orders = os.read(lifeline, 64)
            if not orders:
                end(pid, grace_s)
                return 0
            for number in orders:
                signal_group(pid, number)


def reap(pid: int) -> str | None:
    """How the child ended, or None while it runs."""
    done, wait_status = os.waitpid(pid, os.WNOHANG)
    if not done:
        return None
    if os.WIFSIGNALED(wait_status):
        return f"signal {os.WTERMSIG(wait_status)}"
    return f"exit {os.WEXITSTATUS(wait_status)}"


def signal_group(pid: int, number: int) -> bool:
    """Signal every process of the group; False if none is left.

    Between fork and setsid there is no such group yet, only the child. macOS reports EPERM for a group of
    zombies only.
    """
    for send in (os.killpg, os.kill):
        try:
            send(pid, number)
            return True
        except (ProcessLookupError, PermissionError):
            continue
    return False


def end(pid: int, grace_s: float) -> None:
    """End the group after the gateway has ended: SIGTERM, then SIGKILL."""
    signal_group(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    reaped = False
    while time.monotonic() < deadline:
        reaped = reaped or reap(pid) is not None
        if reaped and not group_lives(pid):
            return
        time.sleep(0.02)
    signal_group(pid, signal.SIGKILL)


def group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def report(status: int, line: str) -> None:
    try:
        os.write(status, f"{line}\n".encode())
    except BrokenPipeError:
        return  # the gateway has just ended; the lifeline will report it next


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
