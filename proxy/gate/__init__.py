"""The gate: which request runs now, which waits, and which is refused.

The gate is the only place that lets work through to the child. A request runs when nothing holds the gate,
a slot is free (`Budget.max_running`), the KV of all running requests stays under `max_active_kv_bytes`, and
their predicted peak memory, together with what finished sequences still hold, stays under the ceiling.

A request's journey: the relay asks `Gate.ticket` for a ticket (its predicted demand and its deadline), enters
the gate with it, awaits `Slot.granted`, reports generated tokens with `Slot.grew`, may `Slot.requeue` itself
for a replay, and leaves by the end of the `with` block. If the child may still be at work on it then, it has
called `Slot.retain`, and its reservation ends with the release.

Others tell the gate facts: the plan its budget, the memory guard what the child holds and whether to hold all
admissions, the ceiling watch a ceiling that moved, and internal requests that one of them is at the child.

Invariants:
- A grant reserves memory in the same call; there is no await between reading the state and changing it.
- Each ticket ends once: refused, or left after any number of grants.
- Nothing runs at the same time as a request in isolation, and no request waits for ever: one that was
  overtaken often or long enough cannot be overtaken again.
- A decision never frees memory. Pressure and eviction belong to proxy.memory.

Modules: `gate` is the asyncio shell (futures, one timer, what is learned); `slot` is what the relay holds.
`admission` decides, over `capacity` (the running requests), `queue` (the waiting ones), `budget` (the limits)
and `costs` (supervisor.memory_model, corrected). `answer_lengths` and `corrections` learn. All of these and
`snapshot` are pure. The gate never imports the relay, the cache, the memory guard or the API.
"""
