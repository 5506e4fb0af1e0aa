"""House rules that no other tool holds: every module says what it is for and has its test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("proxy", "supervisor")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


def test_there_are_modules() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_begins_with_what_it_is_for(module: Path) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text()))
    assert docstring, f"{module} has no docstring"
    first = docstring.splitlines()[0]
    assert len(first) > 30, f"{module}: {first!r} says too little"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_test(module: Path) -> None:
    """`proxy/gate/queue.py` has tests/proxy/gate/test_queue.py, or tests/real/test_queue.py."""
    candidates = [
        Path("tests", module.parent, f"test_{module.stem}.py"),
        Path("tests/real", f"test_{module.stem}.py"),
    ]
    assert any((ROOT / path).exists() for path in candidates), f"none of {', '.join(map(str, candidates))}"


def test_the_gateway_process_never_imports_mlx() -> None:
    """Importing mlx or transformers costs over a second and holds the GIL; only worker and child may."""
    code = (
        "import sys, proxy.app, proxy.cli\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
