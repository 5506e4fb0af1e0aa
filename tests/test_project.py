"""House rules that no other tool holds: every module says what it is for and has its test."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
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


@pytest.mark.parametrize("package", sorted({module.parent for module in MODULES}), ids=str)
def test_a_folder_can_be_taken_in_at_one_look(package: Path) -> None:
    files = [module for module in MODULES if module.parent == package]
    assert len(files) <= 20, f"{package} has {len(files)} modules: split it"


@pytest.mark.parametrize("package", sorted({module.parent for module in MODULES}), ids=str)
def test_every_package_has_a_head(package: Path) -> None:
    """Ten to forty lines: what it decides, who calls it, its invariants, and what it may not import."""
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert docstring, f"{package} has no docstring"
    assert 10 <= len(docstring.splitlines()) <= 40


def test_class_names_are_unique() -> None:
    names = Counter(
        node.name
        for module in MODULES
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def _under_the_purity_contract(module: Path) -> bool:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    pure = next(each["source_modules"] for each in contracts if each["name"].startswith("decisions are pure"))
    dotted = ".".join(module.with_suffix("").parts)
    return any(dotted == name or dotted.startswith(f"{name}.") for name in pure)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_says_that_it_is_pure_if_and_only_if_a_contract_holds_it(module: Path) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text())) or ""
    assert docstring.startswith("Pure. ") == _under_the_purity_contract(module)


def test_the_gateway_process_never_imports_mlx() -> None:
    """Importing mlx or transformers costs over a second and holds the GIL; only worker and child may."""
    code = (
        "import sys, proxy.server, proxy.cli\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


#: Functions that start a task and await it, or its end, themselves.
_AWAITED = {
    ("proxy/doctor/command.py", "_examine"),
    ("proxy/relay/streaming_client.py", "__init__"),  # awaited by `aclose`, which the relay always calls
    ("proxy/server.py", "_until_stopped"),
    (
        "supervisor/child/process.py",
        "spawn",
    ),  # awaited by `wait_closed`; publishes the end whatever is raised
    ("supervisor/child/watch.py", "_require_activity"),
    ("supervisor/supervisor.py", "_carry_out"),  # its end is an event of the state machine
}


def test_every_task_has_an_owner_that_notices_its_end() -> None:
    """Tasks are started by `supervisor.aio.Tasks`, which logs failures and tells the owner."""
    starters = {"create_task", "ensure_future", "run_coroutine_threadsafe"}
    found = {
        (str(module), function.name)
        for module in MODULES
        if str(module) != "supervisor/aio.py"
        for function in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in starters
    }
    assert found == _AWAITED
