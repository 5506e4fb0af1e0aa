"""`mlxguard-proxy limits`: what deaths for want of memory have taught, what it holds for, or to forget it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from proxy.config.folders import cache_folder, state_folder
from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode
from proxy.planning.limits_file import FILE, Key, StoredLimits, key_of, read_limits, to_json
from proxy.planning.planner import local_folder
from supervisor.model.resolve import ModelUnavailable


def run(settings: Settings, *, reset: bool, as_json: bool) -> int:
    """Show them, or forget them with `reset`; the exit code is one of `ExitCode`."""
    file = state_folder(settings.supervisor.state_dir) / FILE
    try:
        if reset:
            return _reset(file)
        found = read_limits(file)
    except (OSError, ValueError) as failure:
        sys.stderr.write(f"{file}: {failure}; `mlxguard-proxy limits reset` removes it\n")
        return ExitCode.CONFIGURATION
    if as_json:
        sys.stdout.write(json.dumps(to_json(found or StoredLimits({})), indent=1) + "\n")
        return ExitCode.OK
    lines = ["nothing was learned"] if found is None else _rows(found, _today(settings))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return ExitCode.OK


def _reset(file: Path) -> int:
    there = file.exists()
    file.unlink(missing_ok=True)
    told = "forgotten; a proxy that runs tells agents of it from the next start of its server on"
    sys.stdout.write(f"{told if there else 'nothing was learned'}\n")
    return ExitCode.OK


def _today(settings: Settings) -> Key | None:
    """What limits would have to be for now; None while the model is not on this machine."""
    try:
        return key_of(settings, local_folder(settings, cache_folder()))
    except (ModelUnavailable, OSError):
        return None


def _rows(kept: StoredLimits, today: Key | None) -> Iterator[str]:
    learned = kept.learned
    yield f"memory    {learned.reason}"
    if learned.last is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(learned.last.at))
        minutes = (learned.stable_s - learned.worked_s) / 60
        yield f"          since {when}; raised a little after {minutes:.0f} more minutes of work"
    alone, together = kept.corrections.factors(time.time())
    yield f"costs     foretold x {alone:.2f} for one alone, x {together:.2f} for several, as seen so far"
    for name, value in kept.key.items():
        yield f"{name:<10}{value or '-'}"
    changed = [name for name in today if kept.key.get(name) != today[name]] if today is not None else []
    if changed:
        yield f"It is not for today's {', '.join(changed)}: the next start drops it."
