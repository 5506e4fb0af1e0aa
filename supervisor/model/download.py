"""Downloads a model from the Hugging Face hub: `python -m supervisor.model.download ID [--revision R]`.

It is a process of its own, since the hub's client and mlx_lm, whose file patterns it uses, are slow and large
to import. It prints JSON lines: `{"bytes", "total"}` and `{"retry", "reason"}` while it works, and at the end
`{"folder"}`, or `{"error"}` with exit code 1. It ends when its stdin does, so that it does not outlive its
parent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError, of its HTTP library
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from supervisor.model.resolve import fault

#: Attempts, over about a minute; longer trouble is reported to the user.
_ATTEMPTS = 6
#: Seconds between two reports of progress.
_REPORT_EVERY_S = 5.0


def fetch(name: str, revision: str | None, attempts: int) -> Path:
    """Return the folder of a complete snapshot: from disk, without asking the hub, or else downloaded.

    Raises whatever the hub's client raises, after retries of transient errors.
    """
    try:
        folder = Path(_snapshot(name, revision, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder is not None and fault(folder) is None:
        return folder
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=1, max=30),
        before_sleep=_report_retry,
        reraise=True,
    )
    return Path(retrying(_snapshot, name, revision, local_files_only=False))


def _snapshot(name: str, revision: str | None, *, local_files_only: bool) -> str:
    return snapshot_download(
        name,
        revision=revision,
        local_files_only=local_files_only,
        allow_patterns=DEFAULT_ALLOW_PATTERNS,
        tqdm_class=_Progress,
    )


def is_transient(error: BaseException) -> bool:
    """Whether the error comes from the network or the hub and may pass."""
    if isinstance(error, LocalEntryNotFoundError):  # nothing on disk; the cause says why
        cause = error.__cause__
        return cause is not None and is_transient(cause)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status in (408, 429)
    return isinstance(error, HTTPError | TimeoutError | ConnectionError) and not isinstance(
        error, OfflineModeIsEnabled
    )


def explain(error: Exception, name: str, revision: str | None) -> str:
    """One sentence for the user that says what was tried and what to do."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    hub = constants.ENDPOINT
    match cause:
        case GatedRepoError():
            return f'"{name}" is gated: accept its terms at {hub}/{name}, then run `hf auth login`.'
        case RevisionNotFoundError():
            return f'"{name}" has no revision "{revision}".'
        case RepositoryNotFoundError():
            return (
                f'There is no folder "{name}", and no such model at {hub}; if private, run `hf auth login`.'
            )
        case HFValidationError():
            return f'There is no folder "{name}", and it is not a valid name of a model on the hub.'
        case OfflineModeIsEnabled():
            return f'"{name}" is neither a folder nor downloaded, and HF_HUB_OFFLINE forbids downloading it.'
        case _:
            reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
            return f'"{name}" is neither a folder nor downloaded, and cannot be fetched from {hub}: {reason}'


def _report(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _report_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _report(retry=state.attempt_number, reason=type(getattr(error, "__cause__", None) or error).__name__)


class _Progress(tqdm):
    """Reports the hub's progress bar of bytes as lines, every few seconds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reported_at = time.monotonic()
        shown = {"disable": False, "mininterval": _REPORT_EVERY_S, "miniters": 1}
        super().__init__(*args, **(kwargs | shown))  # type: ignore[no-untyped-call]

    def display(self, *args: Any, **kwargs: Any) -> None:
        due = time.monotonic() - self._reported_at >= _REPORT_EVERY_S
        if self.unit == "B" and self.n and due:
            self._reported_at = time.monotonic()
            _report(bytes=int(self.n), total=int(self.total or 0))


def _end_with_stdin() -> None:
    while os.read(0, 1024):  # not sys.stdin: a thread that reads it holds its lock at exit
        pass
    os._exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m supervisor.model.download")
    parser.add_argument("name")
    parser.add_argument("--revision")
    parser.add_argument("--attempts", type=int, default=_ATTEMPTS)
    arguments = parser.parse_args(argv)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        folder = fetch(arguments.name, arguments.revision, arguments.attempts)
    except Exception as error:  # noqa: BLE001  (whatever the hub's client raises becomes one line)
        _report(error=explain(error, arguments.name, arguments.revision))
        return 1
    _report(folder=str(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
