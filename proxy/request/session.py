"""Pure. Sessions as clients name them in headers, where they do.

A session is known by the beginning of its prompts (`CompletionRequest.session`). A header tells apart
sessions that begin with the same words. It never joins prompts that begin differently, since what the child
has cached for one is of no use to the other: titles and subagents carry the header of their session too.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Any client; Claude Code, with the subagent that asks; Codex, with the thread of its session.
HEADERS = (
    "x-session-id",
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
    "session-id",
    "session_id",
    "thread-id",
)

#: Characters of a value that count; no client sends more.
_MOST = 128


def named_session(headers: Mapping[str, str]) -> str:
    """The name of the session that a request belongs to; "" if its client gives none."""
    named = (headers.get(name, "")[:_MOST] for name in HEADERS)
    return "/".join(filter(None, named))
