"""The memory of the draft models and adapters that the child loads by its flags or as requests name them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.memory_model.activations import Traced
from supervisor.memory_model.kv_cache import CostModel
from supervisor.model.hub_cache import downloaded
from supervisor.model.resolve import describe
from supervisor.tracing.client import trace_model

#: The one file that the server loads from an adapter's folder (mlx_lm/tuner/utils.py, `load_adapters`).
_ADAPTER = "adapters.safetensors"


@dataclass(frozen=True, slots=True)
class DraftModels:
    """The largest draft model and the largest adapter: one of each is loaded at a time."""

    weights: int = 0  # bytes of both
    cost_model: CostModel | None = None  # the draft model's; None without one. Adapters add no KV
    reason: str | None = None  # why that cost model is only a bound; None when it is exact
    missing: tuple[str, ...] = ()  # draft models that are not on this machine, and so not counted


async def largest_draft_models(
    drafts: Sequence[str], adapters: Sequence[Path], cache_dir: Path
) -> DraftModels:
    """Find the largest of these; a draft model's KV counts for every request, though only some may name it.

    Raises:
        ModelUnavailable, OSError, ValueError: a folder is not a model.
    """
    folders = {name: await asyncio.to_thread(found, name) for name in drafts}
    traced = [await _draft(folder, cache_dir) for folder in folders.values() if folder is not None]
    costliest = max((each for _, each in traced), key=lambda each: each.cost_model.cold(4096), default=None)
    return DraftModels(
        weights=max((weights for weights, _ in traced), default=0) + max(map(_adapter, adapters), default=0),
        cost_model=costliest.cost_model if costliest else None,
        reason=costliest.reason if costliest else None,
        missing=tuple(name for name, folder in folders.items() if folder is None),
    )


async def _draft(folder: Path, cache_dir: Path) -> tuple[int, Traced]:
    facts = await asyncio.to_thread(describe, folder)
    return facts.weights_bytes, await trace_model(folder, cache_dir)


def found(name: str, revision: str | None = None) -> Path | None:
    """The folder of that path, or a hub id's snapshot; None when it is not on this machine."""
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else downloaded(name, revision)


def _adapter(folder: Path) -> int:
    file = folder.expanduser() / _ADAPTER
    return file.stat().st_size if file.is_file() else 0
