"""How long the gate takes to decide with 1,000 waiting, by the planned law: `make bench WHAT=gate`.

The model has the shape of a 70B one with windows in half of its layers, and the memory is full, so that every
decision looks at as many of the waiting as it ever does. Each kind of event is timed by itself, in processor
time of its thread, which is the loop's; the slowest one in a hundred must hold. Places in the queue are
worked out when somebody asks after a change, for all at once; that is no decision, and printed beside.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from proxy.gate.admission import Admission
from proxy.gate.budget import Budget
from proxy.gate.costs import PlannedCosts
from proxy.gate.queue import Ticket
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.sequence import SequenceDemand, Serving
from tests.figures import bar

T = TypeVar("T")

WAITING = 1000
LIMIT_MS = 1.0
LAW = CostModel(
    (
        CachePart(GrowthKind.GROWING, row_bytes=40 * 8 * 256 * 2),
        CachePart(GrowthKind.WINDOW, row_bytes=40 * 8 * 256 * 2, size=1024),
    )
)
MODEL = Model(
    weights=40 * 10**9,
    cost_model=LAW,
    traced=Traced(LAW, attention=((64, 128, 128),), layer_width=60_000, vocabulary=128_000, backend="metal"),
    batched=True,
)
COSTS = PlannedCosts(
    Serving(MODEL, step=2048, decodes=8, prompts=2, prompt_cache_size=10, prompt_cache_bytes=8 * 10**9)
)


def a_ticket(random_: random.Random, number: int, clients: int, now: float) -> Ticket:
    """Most are sessions of an agent, some are its side requests."""
    prompt = random_.choice((300, 3_000, 20_000, 60_000, 120_000))
    demand, least = SequenceDemand(prompt, random_.choice((100, 1_000, 4_000))), SequenceDemand(prompt, 100)
    client = str(random_.randrange(clients))
    return Ticket(str(number), client, now, now + 3_600, demand, least, max_tokens=65_536)


class Crowd:
    """A gate that is full, and its clock."""

    def __init__(self, seed: int, clients: int) -> None:
        self.random = random.Random(seed)
        self.clients = clients
        self.budget = Budget(8, 60 * 10**9, ceiling=100 * 10**9, costs=COSTS)
        self.gate = Admission(self.budget, max_waiting=2 * WAITING)
        self.now = 0.0
        self.number = 0
        self.waiting: list[str] = []
        while len(self.gate.queue) < WAITING:
            self.arrive()

    def arrive(self) -> float:
        self.number += 1
        ticket = a_ticket(self.random, self.number, self.clients, self.now)
        return self.decide(lambda now: self.gate.arrive(ticket, now))

    def leave(self, id: str) -> float:
        return self.decide(lambda now: self.gate.leave(id, now))

    def decide(self, step: Callable[[float], object]) -> float:
        """The seconds that it took."""
        self.now += 0.001
        began = time.thread_time()
        step(self.now)
        return time.thread_time() - began

    def running(self) -> str:
        return self.random.choice(self.gate.capacity.running).ticket.id

    def place(self) -> float:
        """The seconds until somebody's place in the queue is told, after a change."""
        self.fill()
        self.arrive()
        began = time.thread_time()
        self.gate.queue.position(str(self.number))
        return time.thread_time() - began

    def kinds(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """Each leaves as many waiting as there were."""
        gate, random_ = self.gate, self.random
        yield "arrival", self.arrive
        yield "end of one that ran", lambda: self.leave(self.running())
        yield "growth", lambda: self.grow(self.running(), random_.randrange(8_000))
        retained, ceiling = (lambda: random_.randrange(10**9)), self.another_ceiling
        yield "memory given back", lambda: self.told(gate.set_retained, retained())
        yield "another ceiling", lambda: self.told(gate.set_budget, ceiling())
        yield "time", lambda: self.decide(gate.wake)

    def grow(self, id: str, tokens: int) -> float:
        return self.decide(lambda now: self.gate.grew(id, tokens, now))

    def told(self, fact: Callable[[T, float], object], value: T) -> float:
        return self.decide(lambda now: fact(value, now))

    def another_ceiling(self) -> Budget:
        return replace(self.budget, ceiling=self.random.randrange(98 * 10**9, 100 * 10**9))

    def fill(self) -> None:
        while len(self.gate.queue) < WAITING:
            self.arrive()
        for id in [each.id for each in self.gate.queue.first(len(self.gate.queue) - WAITING)]:
            self.leave(id)


def measure(seed: int, clients: int, number: int) -> float:
    """Prints a line per kind of event; the slowest one in a hundred of the slowest kind, in milliseconds."""
    crowd, worst = Crowd(seed, clients), 0.0
    print(f"{clients} clients, {len(crowd.gate.capacity.running)} running, {len(crowd.gate.queue)} waiting")
    for name, decide in crowd.kinds():
        took = []
        for _ in range(number):
            crowd.fill()
            took.append(1000 * decide())
        slowest = statistics.quantiles(took, n=100)[-1]
        print(f"  {name:20} median {statistics.median(took):.3f} ms, one in a hundred {slowest:.3f} ms")
        worst = max(worst, slowest)
    took = [1000 * crowd.place() for _ in range(number // 10)]
    print(f"  {'places of all':20} median {statistics.median(took):.3f} ms, at most {max(took):.3f} ms")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gate")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--number", type=int, default=1000, help="decisions of each kind")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    gc.collect()
    gc.freeze()  # as the gateway does once it serves
    worst = max(measure(arguments.seed, clients, arguments.number) for clients in (1, 50, 1000))
    return 0 if bar("gate_decision_ms", worst, LIMIT_MS) else 1


if __name__ == "__main__":
    sys.exit(main())
