"""The settings as the child's command line."""

from __future__ import annotations

from pathlib import Path

from proxy.config import Settings

#: [upstream] keys that are flags of mlx_lm.server under the same name (its argparse, `mlx_lm.server --help`).
_FLAGS = (
    "prefill_step_size",
    "decode_concurrency",
    "prompt_concurrency",
    "prompt_cache_bytes",
    "prompt_cache_size",
)


def server_flags(settings: Settings, folder: Path) -> tuple[str, ...]:
    """Flags of mlx_lm.server without --host and --port, which the supervisor chooses.

    "auto" leaves a flag out, so that the server's own default holds.
    """
    flags = ["--model", str(folder)]
    for name in _FLAGS:
        value = getattr(settings.upstream, name)
        if value != "auto":
            flags += [f"--{name.replace('_', '-')}", str(value)]
    if settings.model.trust_remote_code:
        flags.append("--trust-remote-code")
    return (*flags, *settings.upstream.args)
