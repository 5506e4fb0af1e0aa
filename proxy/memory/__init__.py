"""Keeping the child within its memory while it runs, whatever the plan predicted.

The plan and the gate predict memory; this package looks at what the child really has, and acts.

`guard` looks ten times a second. Each look tells the gate what the child holds (`Gate.observe`,
`Gate.set_retained`), asks `pressure` for the mark, and acts on it: at the soft mark it holds all admissions
(`Gate.hold`), at the hard mark it ends the running requests that lose least by it. Below the hard mark it
lets `reclaim` take back what finished sequences hold, by filler requests and, as the last means, by a
recycle, which `restart_backoff` spaces. `ceiling_watch` reads the machine every five seconds: the gate
follows the ceiling, and a child that was planned while memory was scarce is recycled for a wider plan
(`ceiling_history`).

The gateway starts `MemoryGuard.run` and `CeilingWatch.run` once, and cancels them when it ends; nothing else
calls in, except for snapshots.

Invariants:
- Nothing is ended because of one look, or because of telemetry that is stale or missing.
- Retained memory is taken back only when a waiting request needs it or an idle child holds more than planned.
- A recycle for memory happens only at an idle child, and never in a loop.
- A bug in a look does not end the watch.

`pressure`, `ceiling_history` and `restart_backoff` are pure. Nothing here imports the relay or the API: a
running request is ended through `Job.give_up`.
"""
