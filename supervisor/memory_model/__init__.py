"""Pure. What requests cost in memory, how much memory there is, and the flags that follow.

**Cost.** `kv_cache.CostModel` has a few parts, each for all caches of one class and size, and replays how
mlx-lm grows, trims and rotates them: exact for one sequence. `sequence` derives from it the buffers of one
request, `snapshots` what the prompt cache pins while requests run, `activations` what a prefill step needs,
and `batch` the peak of several requests together, as a bound for the worst order of events. `upper_bound`
replaces the exact parts for a model that cannot be traced.

**Capacity.** `ceiling` takes the smallest of the machine's bounds; `learned_ceiling` lowers it after deaths
from lack of memory and raises it again with work that goes well.

**Decision.** `plan.plan` puts both together: it chooses flags (`flags`, `batch_speedup`), and says how long
prompts may be and how many run together.

Callers: `supervisor.tracing` builds the parts; the gateway's `planning` reads the machine and calls `ceiling`
and `plan` before each start of the child and every few seconds while it runs; the gate asks `batch` for the
peak of each set of requests, several times per decision, so results are cached by `Serving` and
`SequenceDemand`.

Invariants: one more request never makes the peak of a batch smaller; a bound is never called exact; one
outlier never moves the learned ceiling far. Nothing here reads a clock, a file or the machine, and nothing is
imported but the standard library and pydantic's annotations.
"""
