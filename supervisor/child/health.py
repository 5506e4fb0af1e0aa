"""Asks over HTTP whether the child is alive: /health, and the canary.

The canary is a liveness probe: a completion of one token, which is the only proof that the child serves.
"""

from __future__ import annotations

from enum import Enum, auto

import aiohttp

from supervisor.machine.system import is_own_shortage

#: Seconds between two looks at a serving child.
TICK_S = 0.5

#: Seconds that /health may take. A server that holds the GIL (a search stall) answers late, so only several
#: timeouts in a row mean anything.
HEALTH_TIMEOUT_S = 0.5


class Health(Enum):
    OK = auto()
    DEAD = auto()  # 503: the generation thread is dead
    REFUSED = auto()  # connection refused or broken
    SILENT = auto()
    NOT_ASKED = auto()  # for want of file descriptors here: says nothing about the child


class ProbeAnswer(Enum):
    TOKEN = auto()
    ERROR = auto()  # an HTTP status that is not 200, or a 200 without a token
    REFUSED = auto()
    SILENT = auto()
    NOT_ASKED = auto()


class Probe:
    """Asks one child. The server closes each connection, so every question opens a new one."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"
        self.posts = 0  # canaries that were sent
        self.refusal = ""  # the last canary's response, for an explanation

    async def health(self, timeout_s: float = HEALTH_TIMEOUT_S) -> Health:
        """Ask /health."""
        try:
            limit = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.get(f"{self._url}/health", timeout=limit) as response:
                return Health.DEAD if response.status == 503 else Health.OK
        except TimeoutError:
            return Health.SILENT
        except (aiohttp.ClientError, OSError) as error:
            return Health.NOT_ASKED if is_own_shortage(error) else Health.REFUSED

    async def canary(self, timeout_s: float | None) -> ProbeAnswer:
        """Ask for one token. The prompt is minimal, because it enters the server's prompt cache."""
        body = {"model": "default_model", "prompt": "a", "max_tokens": 1, "stream": False}
        try:
            limit, url = aiohttp.ClientTimeout(total=timeout_s), f"{self._url}/v1/completions"
            self.posts += 1
            async with self._session.post(url, json=body, timeout=limit) as response:
                text = await response.text(errors="replace")
                self.refusal = f"HTTP {response.status} {text[:300]}"
                served = response.status == 200 and _has_token(await response.json(content_type=None))
                return ProbeAnswer.TOKEN if served else ProbeAnswer.ERROR
        except TimeoutError:
            return ProbeAnswer.SILENT
        except ValueError:
            return ProbeAnswer.ERROR
        except (aiohttp.ClientError, OSError) as error:
            return ProbeAnswer.NOT_ASKED if is_own_shortage(error) else ProbeAnswer.REFUSED


def _has_token(answer: object) -> bool:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return isinstance(count, int) and count >= 1
