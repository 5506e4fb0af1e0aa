"""What other programs get of this process's environment: no settings of ours, and no secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

#: Names of variables that are likely to hold a secret, such as HF_TOKEN or AWS_SECRET_ACCESS_KEY.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE", re.IGNORECASE)
#: Settings of ours, among them API keys.
_OURS = "MLXGUARD_"
#: Variables whose names look like secrets and are none.
_HARMLESS = frozenset({"TOKENIZERS_PARALLELISM"})


def without_settings(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without our own settings: for programs that the user chose."""
    return {name: value for name, value in base.items() if not name.startswith(_OURS)}


def without_secrets(base: Mapping[str, str] = os.environ, keep: Collection[str] = ()) -> dict[str, str]:
    """The environment without our own settings and without secrets, apart from those that are named."""
    return {
        name: value
        for name, value in without_settings(base).items()
        if name in keep or name in _HARMLESS or not _SECRET.search(name)
    }
