"""The handlers of the API with stand-ins around them: no child, no tokenizer, one known model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy.http.body_budget import BodyAccount
from proxy.job import Job, Outcome
from proxy.planning.preparation import Prepared
from proxy.prompt.counter import TokenizerInfo
from proxy.prompt.fit import Limits
from proxy.request.completion import Bounds, Prompt
from proxy.request.images import RemoteImage
from proxy.stream.child_stream import StreamProgress, Usage
from tests.proxy.api.test_status import CRASHED

INFO = TokenizerInfo(
    vocab_size=100, context_length=4096, has_chat_template=True, has_tool_calling=False, has_thinking=False
)
LIMITS = Limits(
    max_prompt_tokens=50,
    policy="error",
    keep_tokens=0,
    default_max_tokens=16,
    max_kv_size=None,
    context_length=4096,
)


class Stage:
    """Everything around the handlers, with one part per attribute that a test may change."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = Prepared(Path("/m"), INFO, LIMITS, Bounds(vocab_size=100))
        self.failure: str | None = None
        self.tokens = 7
        self.relayed: list[Job] = []
        self.child = CRASHED
        self.stopping = asyncio.Event()
        self.usage: Usage | None = None
        self.checked: list[tuple[int, int]] = []

    # Preparation
    async def ready(self, timeout_s: float) -> Prepared:
        assert self.prepared is not None
        return self.prepared

    # Tokens
    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        return self.tokens

    async def count_and_predict(
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool, session: str
    ) -> tuple[int, None]:
        return self.tokens, None

    def tell_predictor(self, do: str, **fields: Any) -> None: ...

    def check(self, ours: int, served: int) -> None:
        self.checked.append((ours, served))

    # PictureFetch
    async def fetch(self, remotes: tuple[RemoteImage, ...], account: BodyAccount) -> list[str]:
        return [f"data:image/png;base64,{index}" for index, _ in enumerate(remotes)]

    # Supervisor
    async def recycle(self, reason: str) -> None: ...

    # Relay
    async def serve(self, http_request: web.Request, job: Job) -> web.StreamResponse:
        self.relayed.append(job)
        job.outcome = Outcome.OK
        job.seen = StreamProgress(usage=self.usage)
        return web.json_response({"id": job.answer.id})


class FixedStatus:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.started_at = 1000

    def child(self) -> Any:
        return self._stage.child

    def document(self) -> dict[str, Any]:
        return {"child": str(self._stage.child.state)}
