"""Finds a model that the hub's client has downloaded, without importing that client, which takes a second.

The layout is documented in huggingface_hub's "Understand caching": `models--ORG--NAME/refs/REVISION` holds a
commit, and its files are under `snapshots/COMMIT`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_BRANCH = "main"


def downloaded(
    name: str, revision: str | None = None, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """The folder of the snapshot, complete or not; None if this revision was not downloaded."""
    repository = hub_folder(environ) / f"models--{name.replace('/', '--')}"
    wanted = revision or _BRANCH
    try:
        commit = (repository / "refs" / wanted).read_text(encoding="utf-8").strip()
    except OSError:
        commit = wanted  # a commit has no reference of its own
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def hub_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The client's folder of downloads, from the same variables in the same order."""
    if configured := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(configured).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"
