"""`make bench-gpu`: real out-of-memory on a real GPU, the bare server and the guarded one side by side.

Needs an NVIDIA GPU and an environment with mlx[cuda13] (or cuda12), mlx-lm and this project; without them it
says so in one line and exits 0. The same agents (turns.py) work for the same time against each server:

- calm: nothing is taken away, and all sessions fit;
- squeeze: another program takes all free memory of the GPU for a while, then gives it back;
- growth: the GPU is small from the start, and the sessions grow until they do not fit.

The model has random weights and a realistic shape (gpu_model.py); it is made once under .out/.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.gpu_device import Gpu, NoGpu

if TYPE_CHECKING:
    from tests.bench.gpu_table import Outcome

OUT = Path(__file__).resolve().parents[2] / ".out"
PACKAGES = ("mlx", "mlx-lm", "mlxguard-proxy")


def why_not() -> str | None:
    """Why this cannot run in this environment."""
    missing = [name for name in ("aiohttp", "mlx_lm", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{sys.executable} has no {', '.join(missing)}"
    if not Path(sys.executable).with_name("mlxguard-proxy").exists():
        return "this project is not installed beside this Python (pip install -e .)"
    # In a process of its own: importing mlx takes memory of the GPU.
    code = "import mlx.core as mx; raise SystemExit(0 if mx.cuda.is_available() else 9)"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if probe.returncode == 9:
        return "the MLX installed here has no CUDA back-end (pip install 'mlx[cuda13]')"
    return None if probe.returncode == 0 else f"MLX does not import: {probe.stderr.strip()[-200:]}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="SCENARIO", help="calm, squeeze or growth")
    parser.add_argument("--out", type=Path, default=OUT / "bench-gpu.json")
    parser.add_argument("--logs", type=Path, help="keep the servers' logs in this folder")
    arguments = parser.parse_args()
    try:
        gpu = Gpu()
    except NoGpu as absent:
        print(f"bench-gpu: skipped: {absent}")
        return 0
    if (reason := why_not()) is not None:
        print(f"bench-gpu: skipped: {reason}")
        return 0
    return measure(gpu, arguments)


def measure(gpu: Gpu, arguments: argparse.Namespace) -> int:
    """Play all scenarios; exit code 1 if a bar is short."""
    from tests.bench.gpu_sides import SCENARIOS, WARM_UP, run  # needs packages that `why_not` has found
    from tests.bench.gpu_table import bars, table

    model = made_model()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as temporary:
        logs = arguments.logs or Path(temporary)
        run(WARM_UP, WARM_UP.sides[0], gpu, model, logs / "warm-up")
        for scenario in SCENARIOS:
            if arguments.only not in (None, scenario.name):
                continue
            for number, side in enumerate(scenario.sides):
                outcomes.append(run(scenario, side, gpu, model, logs / f"{scenario.name}-{number}"))
                print(json.dumps(asdict(outcomes[-1]) | {"notes": None}), flush=True)
                save(arguments.out, gpu, outcomes)
    print(", ".join(f"{name} {value}" for name, value in versions(gpu).items()))
    print(table(outcomes), end="\n\n")
    return 0 if bars(outcomes) else 1


def made_model() -> Path:
    """The model's folder; made on the GPU, in a process of its own, unless it is there."""
    folder = OUT / "models" / "gpu-4b"
    made = folder / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "tests.bench.gpu_model", str(folder)], check=True)
        made.touch()
    return folder


def save(out: Path, gpu: Gpu, outcomes: Sequence[Outcome]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {**versions(gpu), "outcomes": [asdict(outcome) for outcome in outcomes]}
    out.write_text(json.dumps(document, indent=1), encoding="utf-8")


def versions(gpu: Gpu) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": f"{gpu.name}, {gpu.total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
