"""The lazy probe against evaluated caches, for every architecture of mlx-lm: `make bench WHAT=probe`.

Each tiny model is traced without evaluating, and then really run in float32; the law that the trace gave must
say the bytes of the evaluated caches, cold and warm. Batches of architectures run in processes of their own,
since a model may crash the one it is in.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from supervisor.memory_model.kv_cache import CostModel, prefill
from supervisor.memory_model.upper_bound import bound
from tests.figures import bar

COLD = (1, 22, 257, 700)
WARM = ((300, 300), (5437, 2048, 100, 1))
STEP = 256
#: Where the bound for models that cannot be traced must not be below the law.
BOUND_ROWS = (1, 257, 4096)
WANTED = 120
_BATCH = 5
_BATCH_S = 900.0


def feedings(*, short: bool) -> Iterator[tuple[int, ...]]:
    """The chunks of each case; `short` leaves out the one that takes minutes."""
    yield from (tuple(prefill(tokens, STEP)) for tokens in COLD)
    yield from WARM[:1] if short else WARM


def check(name: str, *, short: bool = False) -> dict[str, Any]:
    """One architecture, in this process: `wrong` cases as (chunks, by the law, evaluated), or `error`."""
    import mlx.core as mx

    from supervisor.tracing import trace as probe
    from supervisor.tracing.cache_classes import Untraceable
    from tests.bench import architectures

    probe.stand_in_for_kernels(mx)  # before any model is imported; here the evaluated run needs it too
    started = time.monotonic()
    try:
        config = {**architectures.config(name), "torch_dtype": "float32"}
        law = TypeAdapter(CostModel).validate_python(probe.trace(config, {})["cost_model"])
        traced_s = time.monotonic() - started
        held = {chunks: evaluated(config, chunks) for chunks in feedings(short=short)}
    except (Untraceable, SystemExit, Exception) as error:  # noqa: BLE001 - each is a result
        return {"name": name, "error": f"{type(error).__name__}: {error}"}
    wrong = [(chunks, law.after(chunks), size) for chunks, size in held.items() if law.after(chunks) != size]
    too_low = [rows for rows in BOUND_ROWS if bound(config).cold(rows) < law.cold(rows)]
    return {
        "name": name,
        "wrong": wrong,
        "bound_too_low": too_low,
        "traced_s": traced_s,
        "seconds": time.monotonic() - started,
    }


def evaluated(config: dict[str, Any], chunks: Iterable[int]) -> int:
    """Bytes of all cache arrays after a real run."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import _get_classes

    from supervisor.tracing.cache_classes import arrays, leaves

    model_class, args = _get_classes(config)
    model = model_class(args.from_dict(config))
    model.update(
        tree_map(
            lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a, model.parameters()
        )
    )
    model.eval()
    caches = make_prompt_cache(model)
    for chunk in chunks:
        model(mx.zeros((1, chunk), dtype=mx.int32), cache=caches)
        mx.eval([array for leaf, _ in leaves(caches) for array in arrays(leaf).values()])
    return sum(array.nbytes for leaf, _ in leaves(caches) for array in arrays(leaf).values())


def _batch(names: Sequence[str], *, short: bool) -> list[dict[str, Any]]:
    """What a process of its own says of these; whoever ended it, or came after that, has an error."""
    command = [sys.executable, "-m", "tests.bench.probe", "--in-process", *names]
    if short:
        command.append("--short")
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=_BATCH_S, check=False)
        output, end = done.stdout, f"exit {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output, end = late.stdout or b"", f"not done in {_BATCH_S:g} s"
    found = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
    missing = set(names) - {entry["name"] for entry in found}
    return found + [{"name": name, "error": end} for name in sorted(missing)]


def main(argv: Sequence[str] | None = None) -> int:
    """A line per architecture that is not exact, and the bars. Exit code 1 when a bar is short."""
    parser = argparse.ArgumentParser(prog="bench probe", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; default: all")
    parser.add_argument("--short", action="store_true", help="without the warm case of 7,586 tokens")
    parser.add_argument("--seed", help="nothing is drawn here")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.in_process:
        for name in options.names:
            print(json.dumps(check(name, short=options.short)), flush=True)
        return 0
    names = options.names or _architectures()
    batches = [names[start :: -(-len(names) // _BATCH)] for start in range(-(-len(names) // _BATCH))]
    run = partial(_batch, short=options.short)
    with ThreadPoolExecutor(2) as pool:
        entries = sorted(
            (entry for found in pool.map(run, batches) for entry in found), key=lambda e: e["name"]
        )
    return _report(entries)


def _architectures() -> list[str]:
    code = "from tests.bench import architectures; print(*architectures.architectures())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def _report(entries: Sequence[dict[str, Any]]) -> int:
    for entry in entries:
        for case in entry.get("wrong", ()):
            print(f"{entry['name']}: chunks {case[0]}: {case[1]} bytes by the law, {case[2]} evaluated")
        for rows in entry.get("bound_too_low", ()):
            print(f"{entry['name']}: the bound is below the law at {rows} rows")
        if "error" in entry:
            print(f"{entry['name']}: {entry['error']}")
    exact = sum(1 for entry in entries if entry.get("wrong") == [])
    wrong = sum(1 for entry in entries if entry.get("wrong"))
    low = sum(1 for entry in entries if entry.get("bound_too_low"))
    slowest = max((entry.get("traced_s", 0.0) for entry in entries), default=0.0)
    print(f"{exact} of {len(entries)} architectures exact, cold and warm; slowest trace {slowest:.2f} s")
    held = [
        bar("probe_exact", exact, min(WANTED, len(entries)), at_least=True),
        bar("probe_wrong", wrong, 0),
        bar("probe_bound_too_low", low, 0),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
