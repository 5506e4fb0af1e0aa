"""Detects foreign packages that hide ours: PyPI's `proxy.py` and `supervisor` have the same import names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_DISTRIBUTION = "mlxguard-proxy"

#: Our packages -> the distribution on PyPI with the same import name, as a pattern of its metadata folder.
_PACKAGES = {"proxy": "proxy[._]py", "supervisor": "supervisor"}

_REMEDY = (
    f"Install {_DISTRIBUTION} into an environment of its own, for example with: pipx install {_DISTRIBUTION}"
)


def problems(root: Path = Path(__file__).parents[2]) -> Iterator[str]:
    """One sentence for each package that is hidden or overwritten; `root` is the folder with ours."""
    for package, namesake in _PACKAGES.items():
        spec = find_spec(package)
        found = Path(spec.origin).parent if spec and spec.origin else None
        if found != root / package:
            yield (
                f"the package {package!r} in {found or 'no folder'} is not ours ({_owner(package)}) "
                f"and hides {root / package}. {_REMEDY}"
            )
        elif others := sorted(path.stem for path in root.glob(f"{namesake}-*.dist-info")):
            yield (
                f"{others[0]} is installed into the same folder as ours, {found}: "
                f"one has overwritten parts of the other. {_REMEDY}"
            )


def _owner(package: str) -> str:
    from importlib.metadata import packages_distributions  # noqa: PLC0415 - slow, and rarely needed

    owners = set(packages_distributions().get(package, ())) - {_DISTRIBUTION}
    return f"it belongs to {', '.join(sorted(owners)) or 'no installed distribution'}"
