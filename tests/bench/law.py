"""The law of batches against the real child's memory: `make bench WHAT=law [N=] [SEED=]`.

Each scenario of scenarios.toml runs N times in one child, which is displaced in between. Predicted is the
most that the gate would reckon with at any grant: from tokens, from what the idle child holds (less what goes
when the next request joins), from who generates, from what those that have ended since then leave behind, and
from telemetry, as memory_guard.py tells it. Measured is MLX's own peak of active memory.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from proxy.gate.budget import Budget
from proxy.gate.capacity import Capacity
from proxy.gate.costs import PlannedCosts
from proxy.gate.queue import Ticket
from supervisor.memory_model.activations import Model
from supervisor.memory_model.batch import stale
from supervisor.memory_model.sequence import SequenceDemand, Serving
from supervisor.model.resolve import describe
from supervisor.tracing.client import trace_model
from tests.bench.law_stand import Answer, Stand, next_turn, prompt_of, stand, tiny
from tests.figures import ROOT, bar

SCENARIOS = Path(__file__).with_name("scenarios.toml")
RUNS = 5


@dataclass(slots=True)
class Run:
    """One measurement: bytes of the fullest moment, weights included."""

    predicted: int = 0
    measured: int = 0

    @property
    def error(self) -> float:
        """Above 0: predicted too much."""
        return self.predicted / self.measured - 1


@dataclass(slots=True)
class Sent:
    """A request of a run, and when it was sent, by time.monotonic."""

    answer: Answer
    at: float

    def ticket(self, id: str) -> Ticket:
        answer = self.answer
        segments = 2 if answer.messages[0]["role"] == "system" else 1
        demand = SequenceDemand(answer.prompt, answer.completion, answer.cached, segments=segments)
        return Ticket(id, fairness_key="", arrived=0, deadline=0, demand=demand, least_demand=demand)


def _member(answer: Answer) -> SequenceDemand:
    return SequenceDemand(answer.prompt, answer.completion, answer.cached)


def run(scene: dict[str, Any], running: Stand, serving: Serving, draw: random.Random) -> Run:
    """Everything in its order, on a displaced child."""
    last = running.displace(draw, serving.prompt_cache_size)
    plain = running.overhead[False]
    before = [running.ask(prompt_of(draw, prompt - plain), end) for prompt, end in scene.get("before", ())]
    last = before[-1] if before else last
    retained = running.memory()["active"] - serving.model.weights - stale(serving, _member(last))
    running.reset_peak()
    sent: list[Sent] = []
    for number, (prompt, completion) in enumerate(scene["members"]):
        if scene.get("warm"):
            first = before[number]
            more = prompt - first.prompt - first.completion - plain
            messages = next_turn(draw, first, more)
        else:
            system = scene.get("system", 0)
            messages = prompt_of(draw, prompt - system - running.overhead[bool(system)], system)
        _wait(scene.get("order", ""), sent)
        sent.append(Sent(running.send(messages, completion), time.monotonic()))
    for each in sent:
        each.answer.ended.wait()
    assert all(each.answer.completion for each in sent), "the child did not answer"
    return Run(predicted(serving, sent, running.seen, retained), running.memory()["peak"])


def _wait(order: str, sent: Sequence[Sent]) -> None:
    if order == "first token" and sent:
        sent[-1].answer.started.wait()
    while order == "one by one ends" and sum(not each.answer.ended.is_set() for each in sent) > 1:
        time.sleep(0.005)


def predicted(
    serving: Serving, sent: Sequence[Sent], samples: Sequence[tuple[float, int]], retained: int
) -> int:
    """The most that the gate reckons with at any of the grants, from all that it sees, as it sees it."""
    capacity = Capacity(Budget(len(sent), costs=PlannedCosts(serving)))
    capacity.retained, most = retained, 0

    def grant(id: str, each: Sent) -> None:
        nonlocal most
        capacity.admit(each.ticket(id))
        most = max(most, capacity.reserved)

    def end(id: str) -> None:
        capacity.leave_behind(id)
        capacity.release(id)

    def look(active: int) -> None:
        if len(capacity):
            capacity.retained = min(
                capacity.retained, max(0, active - serving.model.weights - capacity.generating_kv)
            )

    events: list[tuple[float, Callable[[], object]]] = []
    for number, each in enumerate(sent):
        id = str(number)
        events.append((each.at, partial(grant, id, each)))
        events.append((each.answer.started_at, partial(capacity.grow, id, 1)))
        events.append((each.answer.ended_at, partial(end, id)))
    events += [(at, partial(look, active)) for at, active in samples if at > sent[0].at]
    for _, event in sorted(events, key=itemgetter(0)):
        event()
    return most


def scenarios(names: Sequence[str]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """(name, whether it is one alone, what it is) of these, or of all."""
    document = tomllib.loads(SCENARIOS.read_text())
    for kind in ("alone", "together"):
        for name, scene in document[kind].items():
            if not names or name in names:
                yield name, kind == "alone", scene | {"spec": document["models"][scene["model"]]}


def measure(scene: dict[str, Any], folder: Path, number: int, draw: random.Random) -> list[Run]:
    model = tiny(folder / scene["model"], scene["spec"])
    traced = asyncio.run(trace_model(model, folder))
    weights = describe(model).weights_bytes
    step, decodes, prompts, kept = scene["flags"]
    serving = Serving(Model(weights, traced.cost_model, traced, traced.batched), step, decodes, prompts, kept)
    with stand(model, scene["flags"], folder / "child.log") as running:
        return [run(scene, running, serving, draw) for _ in range(number)]


def main(argv: Sequence[str] | None = None) -> int:
    """A line per scenario, and the bars. Exit code 1 when a bar is short."""
    parser = argparse.ArgumentParser(prog="bench law", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=RUNS, help="runs of each scenario")
    options = parser.parse_args(argv)
    draw = random.Random(options.seed)
    alone: list[Run] = []
    together: list[Run] = []
    (ROOT / ".out").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".out") as folder:
        for name, single, scene in scenarios(options.names):
            runs = measure(scene, Path(folder), options.number, draw)
            (alone if single else together).extend(runs)
            _tell(name, runs)
    return 0 if all([*_bars_alone(alone), *_bars_together(together)]) else 1


def _tell(name: str, runs: Sequence[Run]) -> None:
    predicted, measured = ([getattr(each, what) / 1e6 for each in runs] for what in ("predicted", "measured"))
    errors = [each.error for each in runs]
    print(
        f"{name:<20} predicted {statistics.median(predicted):6.1f} MB, measured {min(measured):6.1f} to "
        f"{max(measured):6.1f} MB: {min(errors):+.1%} to {max(errors):+.1%}",
        flush=True,
    )


def _bars_alone(runs: Sequence[Run]) -> Iterator[bool]:
    if runs:
        yield bar("law_alone_median_error", statistics.median(abs(each.error) for each in runs), 0.10)


def _bars_together(runs: Sequence[Run]) -> Iterator[bool]:
    if runs:
        short = [-each.error / (1 + each.error) for each in runs]  # by how much the bound was exceeded
        yield bar("law_together_above_share", sum(each > 0 for each in short) / len(runs), 0.01)
        yield bar("law_together_worst_above", max(0.0, *short), 0.05)
        yield bar("law_together_median_over", statistics.median(each.error for each in runs), 0.40)


if __name__ == "__main__":
    sys.exit(main())
