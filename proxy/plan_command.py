"""`mlxguard-proxy plan`: what fits on this machine and why, with no child running and nothing downloaded."""

from __future__ import annotations

import asyncio
import logging
import sys

import orjson

from proxy.config import Settings
from proxy.core.names import served_name
from proxy.exit_codes import ExitCode
from proxy.folders import cache_folder, state_folder
from proxy.learned_limits import LearnedLimits
from proxy.limits_file import FILE
from proxy.plan_report import document, screen
from proxy.planning import Planner, local_folder
from supervisor.model import ModelUnavailable, describe


def run(settings: Settings, *, as_json: bool) -> int:
    """Print the plan to stdout; the exit code is one of `ExitCode`."""
    logging.getLogger("mlxguard").addHandler(logging.NullHandler())  # what it says, the plan says too
    try:
        folder = local_folder(settings, cache_folder())
        facts = describe(folder)
        limits = LearnedLimits(state_folder(settings.supervisor.state_dir) / FILE)
        plan = asyncio.run(Planner(settings, cache_folder(), limits).plan(folder))
    except (ModelUnavailable, OSError, ValueError) as failure:
        sys.stderr.write(f"{failure}\n")
        return ExitCode.CONFIGURATION
    name = settings.model.served_name or served_name(settings.model.path)
    if as_json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        text = orjson.dumps(
            document(plan, facts, name) | {"learned": limits.document()}, option=options
        ).decode()
    else:
        text = screen(plan, facts, name, limits.factors) + "\n"
    sys.stdout.write(text)
    return ExitCode.OK
