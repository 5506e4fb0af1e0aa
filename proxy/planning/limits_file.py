"""The file of learned limits: what is in it, and what it holds for.

It holds for one model revision, one mlx and mlx-lm, one set of flags and one machine.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.config.settings import Settings
from proxy.gate.corrections import LEAST_FACTOR, MOST_FACTOR, Correction, Corrections
from proxy.planning.server_flags import server_flags
from supervisor.machine.system import total_memory
from supervisor.machine.versions import versions
from supervisor.memory_model import learned_ceiling
from supervisor.memory_model.learned_ceiling import LearnedCeiling
from supervisor.state.json_file import read_json
from supervisor.tracing.client import model_digest

FILE = "limits.json"

Key = Mapping[str, str]


def key_of(settings: Settings, folder: Path) -> Key:
    """What learned limits hold for. `flags`: those that the settings fix, since the rest follows from them.

    Raises:
        OSError: the model's files cannot be read.
    """
    upstream = settings.upstream
    flags = (*upstream.command, *server_flags(settings, folder)[2:])  # without --model FOLDER
    return {
        "model": model_digest(folder),
        **dict(version.split(" ") for version in versions()),
        "flags": " ".join((*flags, f"telemetry={upstream.telemetry}")),
        "machine": f"{sys.platform} {platform.machine()} {round(total_memory() / 2**30)} GiB",
    }


@dataclass(frozen=True, slots=True)
class StoredLimits:
    """The file's content: for what, and what. Times are wall-clock seconds."""

    key: Key
    learned: LearnedCeiling = field(default_factory=LearnedCeiling)
    corrections: Corrections = field(default_factory=Corrections)


def read_limits(file: Path) -> StoredLimits | None:
    """What is in the file; None if there is none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none of ours.
    """
    content = read_json(file)
    if content is None:
        return None
    key, beliefs = content.get("key"), content.get("corrections")
    if not isinstance(key, dict) or not isinstance(beliefs, dict):
        raise ValueError("learned limits without their key or corrections")
    corrections = Corrections(*(_belief(beliefs.get(name)) for name in ("alone", "together")))
    return StoredLimits(key, learned_ceiling.from_json(content.get("learned", {})), corrections)


def to_json(kept: StoredLimits) -> dict[str, Any]:
    """Plain values that `read_limits` understands."""
    both = {"alone": kept.corrections.alone, "together": kept.corrections.together}
    beliefs = {name: {"belief": each.belief, "at": each.at} for name, each in both.items()}
    return {"key": dict(kept.key), "learned": learned_ceiling.to_json(kept.learned), "corrections": beliefs}


def _belief(values: object) -> Correction:
    match values:
        case {"belief": float(belief), "at": float(at)} if LEAST_FACTOR <= belief <= MOST_FACTOR:
            return Correction(belief, (), at)
        case _:
            raise ValueError("a correction out of its range")
