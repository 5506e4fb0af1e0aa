"""A virtual-clock simulation of agent sessions in front of one model server, decided by the real `Admission`.

The server, its prompt cache, its memory and its clients are modelled; what is admitted when is decided by the
project's own gate, plan and cost model. Reading the tokens a to b takes `(b - a) / p0 + beta (b^2 - a^2) / 2`
seconds, one prompt at a time or shared; an answer token takes `1 / d0 + gamma x context`; those that generate
together are quicker by `GAIN`, and get one token per step while a prompt is read. A finished sequence becomes
an entry of the prompt cache, replaces its own beginnings, and the oldest entries go when there are too many
entries or bytes.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy.gate.admission import Admission, Effect, Grant
from proxy.gate.budget import Budget
from proxy.gate.costs import PlannedCosts
from proxy.gate.queue import Ticket
from proxy.gate.residents import CacheContent
from proxy.gate.session_rule import SessionRule
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan, plan
from supervisor.memory_model.sequence import SequenceDemand
from tests.support.recorded_sessions import Session

GB = 10**9
GAIN = {1: 1.0, 2: 1.3, 3: 1.5, 4: 1.7, 5: 1.85, 6: 2.0, 7: 2.1, 8: 2.2}
STEP, FILLER_ROWS, EXPECTED = 2048, 256, 512
#: Tools and system prompt that sessions of one agent have in common.
SHARED = 0.9


@dataclass(frozen=True)
class Machine:
    """Speeds as above; `kv`: bytes of a row; `filler_s`: of one filler request; `over_s`: of each turn."""

    ceiling: float = 45 * GB
    weights: float = 17.2 * GB
    kv: int = 98_304
    layers: int = 48
    heads: int = 32
    size: int = 128
    p0: float = 1750
    beta: float = 7.9e-8
    d0: float = 95
    gamma: float = 3.6e-7
    filler_s: float = 0.15
    over_s: float = 0.2
    backend: str = "metal"

    def read_s(self, start: float, end: float) -> float:
        return (end - start) / self.p0 + self.beta * (end * end - start * start) / 2

    @property
    def room(self) -> float:
        """Rows beside the weights."""
        return (self.ceiling - self.weights) / self.kv


#: Qwen3-30B-A3B in 4 bits on an M4 Max with 64 GB; speeds from public figures (mlx-lm, pull request 406).
M4_MAX = Machine()


def planned(machine: Machine, **overrides: Any) -> Plan:
    law = CostModel((CachePart(GrowthKind.GROWING, machine.kv, caches=machine.layers),))
    traced = Traced(
        law,
        attention=((machine.heads, machine.size, machine.size),),
        layer_width=4 * machine.heads * machine.size,
        vocabulary=150_000,
        backend=machine.backend,
        layers=machine.layers,
    )
    names = (
        "prefill-step-size",
        "decode-concurrency",
        "prompt-concurrency",
        "prompt-cache-size",
        "prompt-cache-bytes",
    )
    model = Model(int(machine.weights), law, traced, True)
    chosen = FlagOverrides(mlx_cache_limit=0, **overrides)
    ceiling = Ceiling(int(machine.ceiling), "simulated")
    return plan(model, ceiling, chosen, frozenset(f"--{name}" for name in names), 262_144)


@dataclass(eq=False)
class Buffer:
    rows: int
    users: int = 0


@dataclass(eq=False)
class Entry:
    owner: tuple[int, int] | None  # (slot, run); None for a filler
    session: Session | None
    index: int
    length: int
    buffer: Buffer
    kind: str = "assistant"


class Cache:
    """LRUPromptCache, in lengths."""

    def __init__(self, number: int, most_rows: float | None) -> None:
        self.number, self.most_rows = number, most_rows
        self.entries: list[Entry] = []

    def find(self, ask: Ask) -> tuple[int, Entry | None]:
        best, giver = 0, None
        for entry in self.entries:
            if entry.session is None:
                continue
            if entry.owner == ask.owner:
                got = ask.session.common(ask.index, entry.index)
            else:
                got = int(SHARED * min(ask.session.shared, entry.session.shared))
            if got >= best:
                best, giver = got, entry
        return (min(best, ask.prompt - 1), giver) if giver else (0, None)

    def insert(self, entry: Entry) -> None:
        if entry.session is not None:
            turns = entry.session.turns
            for other in [each for each in self.entries if each.owner == entry.owner]:
                same = other.index == entry.index
                if same or entry.session.common(entry.index, other.index) >= turns[other.index].prompt - 64:
                    self.drop(other)
        entry.buffer.users += 1
        self.entries.append(entry)
        while len(self.entries) > self.number or (self.most_rows and self.rows() > self.most_rows):
            self.drop(self.first())

    def first(self) -> Entry:
        answers = [entry for entry in self.entries if entry.kind == "assistant"]
        prompts = [entry for entry in self.entries if entry.kind != "assistant"]
        return answers[0] if answers and len(answers) >= len(prompts) else prompts[0]

    def drop(self, entry: Entry) -> None:
        self.entries.remove(entry)
        entry.buffer.users -= 1

    def rows(self) -> int:
        return sum(entry.length for entry in self.entries)

    def pinned(self) -> int:
        return sum({id(entry.buffer): entry.buffer.rows for entry in self.entries}.values())


@dataclass(eq=False)
class Ask:
    id: str
    slot: int
    owner: tuple[int, int]
    session: Session
    index: int
    prompt: int
    out: int
    arrived: float
    cached: int = 0
    begun: float | None = None
    reads: float = 0.0
    writes: float = 0.0
    restored: Buffer | None = None
    ahead: int = 0  # the most others that waited at one time while it did


@dataclass
class Figures:
    turns_h: float
    cached: float
    longest_wait: float
    waits: list[Ask] = field(repr=False)
    grants: list[str] = field(repr=False)
    longest_read_s: float = 0.0
    longest_turn_s: float = 0.0


class Simulation:
    """`slots` agents, each with one session after the other."""

    def __init__(
        self,
        machine: Machine,
        sessions: list[Session],
        slots: int,
        seed: int,
        hours: float,
        *,
        rule: bool,
        overrides: dict[str, Any] | None = None,
        bound_s: float = 600.0,
        pairs: bool | None = None,
    ) -> None:
        self.m, self.end = machine, hours * 3600
        made = planned(machine, **(overrides or {}))
        value = {choice.name: choice.value for choice in made.choices}
        self.cache = Cache(value["prompt_cache_size"], value["prompt_cache_bytes"] / machine.kv)
        self.pairs = not rule if pairs is None else pairs
        self.rule = SessionRule(bound_s) if rule else None
        self.budget = Budget(
            max_running=made.running,
            max_active_kv_bytes=made.max_active_kv,
            ceiling=made.ceiling.bytes,
            recent_ceiling=made.ceiling.bytes,
            costs=PlannedCosts(made.serving),
        )
        self.gate = Admission(self.budget, max_waiting=10_000, sessions=self.rule)
        self.now, self.heap, self.serial = 0.0, list[tuple[float, int, str, Any]](), 0
        self.running: list[Ask] = []
        self.waiting: list[Ask] = []
        self.asks: dict[str, Ask] = {}
        self.done: list[Ask] = []
        self.grants: list[str] = []
        self.pushing, self.stale, self.sent, self.woken = False, 0, 0, None
        self.longest_read = self.longest_turn = 0.0
        rng = random.Random(seed)
        order = list(range(len(sessions)))
        rng.shuffle(order)
        per = max(1, len(order) // slots)
        self.lists = [
            [sessions[order[(k + j * slots) % len(order)]] for j in range(per)] for k in range(slots)
        ]
        self.at = [(0, 0)] * slots
        for slot in range(slots):
            self.at[slot] = (0, rng.randrange(max(1, len(self.lists[slot][0].turns) * 2 // 3)))
            self.later(rng.uniform(0, 30), "ask", slot)

    def later(self, seconds: float, kind: str, data: Any = None) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (self.now + seconds, self.serial, kind, data))

    # Clients

    def ask(self, slot: int) -> None:
        run, index = self.at[slot]
        session = self.lists[slot][run % len(self.lists[slot])]
        turn = session.turns[index]
        self.serial += 1
        ask = Ask(
            f"{slot}.{run}.{index}.{self.serial}",
            slot,
            (slot, run),
            session,
            index,
            turn.prompt,
            turn.out,
            self.now,
        )
        cached, _ = self.cache.find(ask)
        self.asks[ask.id] = ask
        self.waiting.append(ask)
        demand = SequenceDemand(ask.prompt, EXPECTED, cached, segments=2)
        ticket = Ticket(
            ask.id,
            f"s{slot}",
            self.now,
            math.inf,
            demand,
            demand._replace(completion=256),
            4096,
            session=f"s{slot}.{run}" if self.rule else "",
        )
        self.apply(self.gate.arrive(ticket, self.now))

    def onward(self, ask: Ask) -> None:
        run, index = self.at[ask.slot]
        more = index + 1 < len(ask.session.turns)
        self.at[ask.slot] = (run, index + 1) if more else (run + 1, 0)
        self.later(ask.session.turns[index].think, "ask", ask.slot)

    # Server

    def start(self, ask: Ask) -> None:
        self.waiting.remove(ask)
        ask.cached, giver = self.cache.find(ask)
        if giver is not None:
            ask.restored = giver.buffer
            giver.buffer.users += 1
        if self.cache.most_rows:
            active = sum(each.prompt for each in [*self.running, ask])
            while self.cache.entries and self.cache.rows() > max(0, self.cache.most_rows - active):
                self.cache.drop(self.cache.first())
        ask.begun, self.stale = self.now, 0
        ask.reads = self.m.read_s(ask.cached, ask.prompt) + self.m.over_s
        ask.writes = ask.out * (1 / self.m.d0 + self.m.gamma * ask.prompt)
        self.longest_read = max(self.longest_read, self.m.read_s(0, ask.prompt))
        self.longest_turn = max(self.longest_turn, self.m.read_s(0, ask.prompt) + self.m.over_s + ask.writes)
        self.running.append(ask)
        self.grants.append(ask.id.rsplit(".", 1)[0])

    def rates(self) -> dict[Ask, float]:
        readers = [ask for ask in self.running if ask.reads > 0]
        if readers:
            slow = min(1.0, self.m.p0 / 2 / STEP / self.m.d0)
            return {ask: 1 / len(readers) if ask.reads > 0 else slow for ask in self.running}
        number = len(self.running)
        return {ask: GAIN[min(8, number)] / number for ask in self.running}

    def advance(self, to: float) -> bool:
        rates = self.rates()
        soonest = min((ask.reads if ask.reads > 0 else ask.writes) / rates[ask] for ask in self.running)
        step = min(to - self.now, soonest)
        self.now += step
        for ask in list(self.running):
            work = step * rates[ask]
            if ask.reads > 0:
                ask.reads -= work
                if ask.reads <= 1e-9:
                    ask.reads = 0.0
                    self.learn(ask)
                    self.apply(self.gate.grew(ask.id, 1, self.now))
            else:
                ask.writes -= work
                if ask.writes <= 1e-9:
                    self.finish(ask)
        return self.now < to - 1e-12

    def learn(self, ask: Ask) -> None:
        if self.rule is not None and len(self.running) == 1 and ask.begun is not None:
            seconds = self.now - ask.begun
            self.rule.speed = self.rule.speed.observed(ask.cached, ask.prompt, seconds)

    def finish(self, ask: Ask) -> None:
        number, self.stale = len(self.running), ask.prompt
        longest = max(each.prompt + each.out for each in self.running)
        self.running.remove(ask)
        if ask.restored is not None:
            ask.restored.users -= 1
        buffer = Buffer(number * longest if number > 1 else ask.prompt + ask.out)
        self.cache.insert(Entry(ask.owner, ask.session, ask.index, ask.prompt + ask.out, buffer))
        self.done.append(ask)
        self.apply(self.gate.grew(ask.id, ask.out, self.now))
        self.apply(self.gate.leave(ask.id, self.now, measured=True))
        del self.asks[ask.id]
        self.tell((ask.id,))
        self.onward(ask)

    def tell(self, confirmed: tuple[str, ...] = ()) -> None:
        """The gate hears what the cache has."""
        if self.rule is not None:
            contents = [
                CacheContent("s{}.{}".format(*each.owner) if each.owner else "", each.length, each.kind)
                for each in self.cache.entries
            ]
            self.apply(self.gate.set_cache(contents, confirmed, self.now))

    # The gate

    def apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Grant), effect
            self.start(self.asks[effect.id])
        for ask in self.waiting:
            ask.ahead = max(ask.ahead, len(self.waiting) - 1)

    def decide(self) -> None:
        retained = (self.cache.pinned() + self.stale) * self.m.kv
        if not self.running and retained != self.gate.capacity.retained:
            self.apply(self.gate.set_retained(int(retained), self.now))
        else:
            self.apply(self.gate.wake(self.now))
        needed = self.gate.snapshot(disconnected=0, corrections=(1.0, 1.0)).eviction_needed
        if not self.pushing and not self.running and needed > 0:
            if self.sent < 2 * self.cache.number + 2:
                kinds = ("assistant", "user") if self.pairs else self.fillers(needed)
                self.sent += len(kinds)
                self.pushing = True
                self.later(len(kinds) * self.m.filler_s, "pushed", kinds)
        elif not self.pushing:
            self.sent = 0
        at = self.gate.next_deadline()
        if at is not None and at < math.inf and at != self.woken:
            self.woken = at
            self.later(max(0.0, at - self.now) + 1e-6, "wake")

    def fillers(self, needed: float) -> tuple[str, ...]:
        """As many answers as it takes."""
        number = 0
        for entry in [each for each in self.cache.entries if each.kind == "assistant"]:
            if needed <= 0:
                break
            needed, number = needed - entry.buffer.rows * self.m.kv, number + 1
        return ("assistant",) * max(1, self.cache.number - len(self.cache.entries) + number)

    def pushed(self, kinds: Iterable[str]) -> None:
        self.pushing = False
        for kind in kinds:
            self.cache.insert(Entry(None, None, 0, 8, Buffer(FILLER_ROWS), kind))
        self.tell()

    def run(self) -> Figures:
        does: dict[str, Callable[[Any], None]] = {
            "ask": self.ask,
            "pushed": self.pushed,
            "wake": lambda _: None,
        }
        while (self.heap or self.running) and self.now < self.end:
            at = min(self.heap[0][0] if self.heap else math.inf, self.end)
            if self.running and self.advance(at):
                self.decide()
                continue
            self.now = at
            while self.heap and self.heap[0][0] <= self.now + 1e-12:
                _, _, kind, data = heapq.heappop(self.heap)
                does[kind](data)
            self.decide()
        waits = [(ask.begun or self.now) - ask.arrived for ask in [*self.done, *self.waiting]]
        total = sum(ask.prompt for ask in self.done) or 1
        return Figures(
            turns_h=len(self.done) / self.now * 3600,
            cached=sum(ask.cached for ask in self.done) / total,
            longest_wait=max(waits, default=0.0),
            waits=[*self.done, *self.waiting],
            grants=self.grants,
            longest_read_s=self.longest_read,
            longest_turn_s=self.longest_turn,
        )


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
