"""Is the child alive? Questions over HTTP, and the arithmetic of silence.

`Probe` asks: /health, and the canary, a completion of one token, which is the only proof that it serves.
`StallWatch` is pure: it is told what was seen at each tick and says when silence is worth a canary.
"""

from __future__ import annotations

from enum import Enum, auto

import aiohttp

TICK_S = 0.5

#: A server that holds the GIL (a search stall) answers late; only many of these in a row mean anything.
HEALTH_TIMEOUT_S = 0.5


class Health(Enum):
    OK = auto()
    DEAD = auto()  # 503: the generation thread is dead
    REFUSED = auto()  # nobody listens, or the connection broke
    SILENT = auto()


class ProbeAnswer(Enum):
    TOKEN = auto()
    ERROR = auto()  # an HTTP status that is not 200, or a 200 without a token
    REFUSED = auto()
    SILENT = auto()


class Probe:
    """Asks one child. The server closes each connection, so every question opens its own."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"
        self.refusal = ""  # what the last canary was told instead of a token

    async def health(self, timeout_s: float = HEALTH_TIMEOUT_S) -> Health:
        try:
            async with self._session.get(f"{self._url}/health", timeout=_total(timeout_s)) as response:
                return Health.DEAD if response.status == 503 else Health.OK
        except TimeoutError:
            return Health.SILENT
        except (aiohttp.ClientError, OSError):
            return Health.REFUSED

    async def canary(self, timeout_s: float | None) -> ProbeAnswer:
        """Ask for one token. The prompt is as short as can be: it enters the server's prompt cache."""
        body = {"model": "default_model", "prompt": "a", "max_tokens": 1, "stream": False}
        try:
            async with self._session.post(
                f"{self._url}/v1/completions", json=body, timeout=_total(timeout_s)
            ) as response:
                text = await response.text(errors="replace")
                self.refusal = f"HTTP {response.status} {text[:300]}"
                return (
                    ProbeAnswer.TOKEN
                    if response.status == 200 and _has_token(await response.json(content_type=None))
                    else ProbeAnswer.ERROR
                )
        except TimeoutError:
            return ProbeAnswer.SILENT
        except ValueError:
            return ProbeAnswer.ERROR
        except (aiohttp.ClientError, OSError):
            return ProbeAnswer.REFUSED


def _total(seconds: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


def _has_token(answer: object) -> bool:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return isinstance(count, int) and count >= 1
