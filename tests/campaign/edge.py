"""Hostile requests against a proxy with the real server: `make campaign WHAT=edge [SEED=] [SECONDS=]`.

The whole corpus first, then mutations of it for as long as there is time; hostile images go to a model that
sees. After each request the child must be the same, its /health 200, and a canary answered with a token.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

from tests.figures import bar
from tests.real.hostile import SETTINGS, Fault, Target
from tests.real.hostile_corpus import Hostile, corpus
from tests.real.hostile_pictures import SETTINGS as SEEING
from tests.real.hostile_pictures import pictures
from tests.real.processes import guard
from tests.real.seeing_model import seeing_model

#: Anything but a server error: a mutation may well be a good request.
_ANY = frozenset({0, *range(200, 500)})

#: A mutation of more is slow to send and finds nothing that a smaller one does not.
_LARGEST = 20_000

_AT_ONCE = 32


def mutations(cases: Sequence[Hostile], chance: random.Random) -> Iterator[Hostile]:
    """Cases with bytes changed, taken out, doubled, or spliced with another's, for ever."""
    small = [case for case in cases if len(case.sent) <= _LARGEST]
    while True:
        case, other = chance.choice(small), chance.choice(small)
        data = bytearray(case.sent)
        for _ in range(chance.randint(1, 4)):
            at, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
            end = min(end, at + 40)
            match chance.randrange(4):
                case 0:
                    data[at:end] = chance.randbytes(end - at)
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end]
                case _:
                    data[at:end] = other.sent[at : at + 40]
        yield Hostile(f"mutation of {case.name}: {bytes(data)!r}", bytes(data), _ANY, most_answers=99)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign edge", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for mutations")
    parser.add_argument("--number", type=int, default=0, help="of cases of the corpus; 0: all")
    options = parser.parse_args(argv)
    print(f"seed {options.seed}")
    families = corpus()
    cases = [case for family in families.values() for case in family]
    print("; ".join(f"{name}: {len(family)}" for name, family in families.items()))
    chance = random.Random(options.seed)
    chosen = chance.sample(cases, options.number) if options.number else cases
    with (
        tempfile.TemporaryDirectory() as folder,
        guard(make_model(Path(folder)), Path(folder), *SETTINGS) as proxy,
    ):
        target = Target.of(proxy)
        faults = [fault for case in chosen for fault in told(target.attack(case))]
        mutated, deadline = 0, time.monotonic() + options.seconds
        while time.monotonic() < deadline:
            batch = list(islice(mutations(cases, chance), _AT_ONCE))
            faults += told(together(target, batch))
            mutated += len(batch)
    seen = list(pictures())
    faults += look(seen)
    return report(len(chosen) + len(seen), mutated, faults)


def look(cases: Sequence[Hostile]) -> list[Fault]:
    """Send them to a model that takes images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = seeing_model(make_model(folder, "--architecture=llama"), folder / "seeing")
        with guard(model, folder, *SETTINGS, *SEEING) as proxy:
            target = Target.of(proxy)
            return [fault for case in cases for fault in told(target.attack(case))]


def together(target: Target, batch: Sequence[Hostile]) -> Iterator[Fault]:
    """Several at once, since many are answered by a timeout; a death is blamed on all of them."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from chain.from_iterable(pool.map(lambda case: list(target.send(case)), batch))
    yield from target.vital_signs("; ".join(case.name for case in batch))


def told(faults: Iterator[Fault]) -> list[Fault]:
    """The same, printed as they come."""
    found = list(faults)
    for fault in found:
        print(f"{fault.kind}: {fault.name[:1000]}: {fault.what}", flush=True)
    return found


def report(sent: int, mutated: int, faults: Sequence[Fault]) -> int:
    kinds = Counter(fault.kind for fault in faults)
    print(f"{sent} requests of the corpus, {mutated} mutations")
    held = [
        bar("edge_corpus", sent, 300, at_least=True),
        bar("edge_deaths", kinds["death"], 0),
        bar("edge_hangs", kinds["hang"], 0),
        bar("edge_server_errors", kinds["server_error"], 0),
        bar("edge_wrong_answers", kinds["answer"], 0),
    ]
    return 0 if all(held) else 1


def make_model(folder: Path, *options: str) -> Path:
    """The embedded model, made in a process of its own, since that imports mlx."""
    command = [sys.executable, "-P", "-m", "supervisor.model.tiny", f"--out={folder / 'model'}", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "model"


if __name__ == "__main__":
    sys.exit(main())
