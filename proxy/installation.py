"""Is the code that runs ours? PyPI's `proxy.py` and `supervisor` use the same import names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_DISTRIBUTION = "mlxguard-proxy"
_PACKAGES = ("proxy", "supervisor")
_NAMESAKES = {"proxy": "proxy.py", "supervisor": "supervisor"}


def problems(root: Path = Path(__file__).parent.parent) -> Iterator[str]:
    """One sentence for each package that is not ours; `root` is the folder that ours lie in."""
    for package in _PACKAGES:
        spec = find_spec(package)
        found = Path(spec.origin).parent if spec and spec.origin else None
        if found != root / package:
            yield (
                f"the package {package!r} in {found or 'no folder'} is not ours "
                f"({_owner(package)}) and hides {root / package}. {_REMEDY}"
            )
        elif _shares_folder(_NAMESAKES[package], found):
            yield (
                f"the distribution {_NAMESAKES[package]!r} is installed into the same folder as ours, "
                f"{found}, and has overwritten parts of it or the reverse. {_REMEDY}"
            )


_REMEDY = (
    f"Install {_DISTRIBUTION} into an environment of its own, for example with: pipx install {_DISTRIBUTION}"
)


def _owner(package: str) -> str:
    owners = set(metadata.packages_distributions().get(package, ())) - {_DISTRIBUTION}
    return (
        f"it belongs to {', '.join(sorted(owners))}" if owners else "it belongs to no installed distribution"
    )


def _shares_folder(distribution: str, folder: Path) -> bool:
    try:
        other = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return Path(str(other.locate_file(folder.name))).resolve() == folder.resolve()
