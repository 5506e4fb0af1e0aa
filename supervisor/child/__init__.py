"""One child process: started, watched and ended; the gateway's view of it is a `Generation`.

A *child* is one process of `mlx_lm.server`. `attempt.Attempt` owns it from launch to exit and reports to the
supervisor, which alone decides what follows:

1. `options` says what to run, `command` builds the command line, environment and port, and `process.Child`
   spawns it under its keeper.
2. `watch.Watch` waits for the first real token (an open port proves nothing), then looks at the child twice
   a second, and examines it when a response broke or `output` contained a suspicious line. `health` asks
   /health and sends the canary.
3. `generation.Generation` exists from the first token on. The gateway sends requests to its port and awaits
   `died`, which resolves the moment the end is known.
4. `memory_wait` waits until a dead child's memory has come back before the next start.

Two files are programs of their own and import nothing of this project: `keeper.py`, the tiny parent that ends
the child however the gateway ends, and `server_wrapper.py`, which reports telemetry from inside the child
and then runs the unmodified server. Only the latter imports mlx.

Invariants: no child outlives its gateway. Every signal goes through the keeper, the only process that knows
that the pid has not been reused. Prompt text is masked before a line of output reaches a log or a report.

May import `lifecycle`, `machine` and `memory_model`; never `state` or the supervisor above.
"""
