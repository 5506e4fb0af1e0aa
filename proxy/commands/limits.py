"""`mlxguard-proxy limits`: shows or forgets what deaths and finished requests have taught about memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from proxy.config.folders import cache_folder, state_folder
from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode
from proxy.planning.learned_limits import LIMITS, Key, StoredLimits, key_of
from proxy.planning.learned_state import forget, read_section
from proxy.planning.planner import local_folder
from supervisor.model.resolve import ModelUnavailable


def run(settings: Settings, *, reset: bool, as_json: bool) -> int:
    """Show what was learned, or forget it with `reset`; the exit code is one of `ExitCode`."""
    folder = state_folder(settings.supervisor.state_dir)
    try:
        if reset:
            known = forget(folder, LIMITS)
            done = "forgotten; a running proxy tells agents the new limit from the next start of its server"
            sys.stdout.write(f"{done if known else _NOTHING}\n")
            return ExitCode.OK
        found = read_section(folder, LIMITS)
    except (OSError, ValueError) as failure:
        sys.stderr.write(f"{failure}; `mlxguard-proxy limits reset` removes it\n")
        return ExitCode.CONFIGURATION
    if as_json:
        sys.stdout.write(LIMITS.form.dump_json(found or StoredLimits({}), indent=1).decode() + "\n")
        return ExitCode.OK
    lines = [_NOTHING] if found is None else _rows(found, _current_key(settings))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return ExitCode.OK


_NOTHING = "nothing has been learned"


def _current_key(settings: Settings) -> Key | None:
    """The key that limits must have to apply now; None while the model is not on this machine."""
    try:
        return key_of(settings, local_folder(settings, cache_folder()))
    except (ModelUnavailable, OSError):
        return None


def _rows(stored: StoredLimits, current: Key | None) -> Iterator[str]:
    learned = stored.learned
    yield f"memory    {learned.reason}"
    if learned.last is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(learned.last.at))
        minutes = (learned.stable_s - learned.worked_s) / 60
        yield f"          since {when}; raised a little after {minutes:.0f} more minutes of work"
    alone, together = stored.corrections.factors(time.time())
    yield f"costs     predicted x {alone:.2f} alone, x {together:.2f} together, from finished requests"
    for name, value in stored.key.items():
        yield f"{name:<10}{value or '-'}"
    changed = [name for name, value in (current or {}).items() if stored.key.get(name) != value]
    if changed:
        yield f"This does not apply to the current {', '.join(changed)}: the next start drops it."
