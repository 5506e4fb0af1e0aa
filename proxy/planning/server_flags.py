"""The child's command line, from the settings and, where they say "auto", from the plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.settings import Settings

if TYPE_CHECKING:  # `check` must start fast, and has no plan
    from supervisor.memory_model.plan import Plan

#: [upstream] keys that are flags of mlx_lm.server under the same name (its argparse, `mlx_lm.server --help`).
FLAGS = (
    "prefill_step_size",
    "decode_concurrency",
    "prompt_concurrency",
    "prompt_cache_bytes",
    "prompt_cache_size",
)


def server_flags(settings: Settings, folder: Path, plan: Plan | None = None) -> tuple[str, ...]:
    """Flags of mlx_lm.server without --host and --port, which the supervisor chooses.

    "auto" uses the plan's choice if the server has such a flag; without a plan, the server's own default.
    """
    planned = {choice.name: choice.value for choice in plan.choices if choice.given} if plan else {}
    flags = ["--model", str(folder)]
    for name in FLAGS:
        value = getattr(settings.upstream, name)
        chosen = planned.get(name) if value == "auto" else value
        if chosen is not None:
            flags += [f"--{name.replace('_', '-')}", str(chosen)]
    if settings.model.trust_remote_code:
        flags.append("--trust-remote-code")
    return (*flags, *settings.upstream.args)
