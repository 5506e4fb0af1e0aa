"""Keeps one `mlx_lm.server` running: starts it, watches it, restarts it, and never leaves it behind.

Words: the *child* is the supervised server process; a *generation* is one life of it; *ready* means that it
has produced one real token, not that its port is open; a *death* is an exit, a dead generation thread or a
wedge; a *recycle* is a planned restart. A response that broke off is not yet a death: `Supervisor.judge`
finds out. More words: docs/glossary.md.

From decision to deed:

    memory_model/      pure: what requests cost in memory, the ceiling, the plan and the server's flags
    lifecycle/         pure: the state machine, causes of death, restart policy, advice, stalls
    machine/           what the operating system reports: memory, processes, ports, limits
    model/             finds or downloads the model; makes the embedded one
    child/             one child process under its keeper, from launch to exit
    state/             the state folder: lock, record of the child, crash reports
    tracing/           measures what a model's caches cost, in a short-lived process
    crash_reports.py   counts deaths, asks the gateway about them, writes reports
    launcher.py        waits for memory, then starts a process
    supervisor.py      the only writer of the child's state: feeds events, carries out effects

`proxy.app` creates one `Supervisor` and starts it; the gateway asks it for a ready `Generation`, subscribes
to changes, and reads snapshots. Everything runs on the event loop's thread; what blocks runs in a thread.

Imports: nothing here imports `proxy`, and each package imports only those above it (pyproject.toml holds the
exact contract). `child/keeper.py` and `child/server_wrapper.py` are programs that import nothing of this
project. Only the wrapper, the tracing process and the embedded model import mlx.
"""
