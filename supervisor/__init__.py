"""The child and the machine: starts `mlx_lm.server`, watches it, restarts it, never leaves it behind.

Words: the *child* is the supervised server process; a *generation* is one life of it; *ready* means one
real token, not an open port; a *death* is an exit, a dead generation thread or a wedge; a *recycle* is a
planned restart. An answer that broke is not yet a death: `Supervisor.judge` finds out.

Where things are, from decision to deed:

    policy.py      pure: how often and how late to restart
    causes.py      pure: what a death can be, in a line, and whether a restart can help
    diagnosis.py   pure: exit, last lines, liveness and memory -> cause and explanation
    events.py      pure: what happens, what is to be done
    lifecycle.py   pure: (state, event) -> new state and effects
    runner.py      Supervisor: the only writer of the state; feeds events, carries out effects
    launcher.py    what to run, memory that is back, the start itself
    attempt.py     one attempt at running the child, from launch to end
    picture.py     the state at one moment, for status and metrics
    deaths.py      counts and reports of what ended
    inquest.py     what the gateway adds to a report: the requests that were in flight
    advice.py      pure: settings and values that follow from one death
    curve.py       pure: the child's memory over the last minute
    reclaim.py     waits before a restart until memory is back
    news.py        who is told of changes
    alarm.py       one timer, set anew
    saver.py       writes small files in a thread, the newest content wins
    generation.py  what the gateway is handed: Generation, Death, Snapshot, Launch, options
    watch.py       one living child: first token, stalls, what a broken answer means
    liveness.py    /health, the canary, and the arithmetic of silence (pure)
    silence.py     pure: how long a silence may be, by what the child is at; learned
    process.py     one child under its keeper: spawn, signal, end
    keeper.py      the tiny parent process that ends the child when the gateway is gone
    child.py       inside the child: telemetry, then the unmodified server
    command.py     command line, environment, port
    output.py      the child's output: lines, masked, the last ones kept
    tasks.py       background tasks that do not fail in silence
    machine.py     what the operating system knows; all that differs by platform
    trials.py      tries what differs by platform, on specimens.py: for `mlxguard-proxy doctor`
    records.py     state folder: lock, running child, crash reports
    model.py       the model's folder: the embedded tiny model, a folder, a hub id
    hub_cache.py   a downloaded hub id's folder, without the hub's client
    tiny*.py       makes the embedded model

The plan, from question to answer (docs/plan.md):

    probe.py, probe_caches.py   in a short-lived process: traces what a model's caches hold, from shapes
    probing.py     asks the probe, and the server's --help, once
    limits.py      control groups, Metal's wired limit, an NVIDIA card; that differs by platform too
    cost.py        pure: the law of caches, exact for any feeding of tokens
    bound.py       pure: the law of models that cannot be traced
    ceiling.py     pure: what the child may take, and what says so
    learned.py     pure: what deaths for want of memory teach about that
    peak.py        pure: what a step of a prompt works in; an estimate
    sequence.py    pure: what one of several sequences takes by itself
    snapshots.py   pure: what the snapshots of prompts pin, by who is read beside whom in how many steps
    batch.py       pure: what requests that run together hold, and their fullest moment
    gain.py        pure: what running together gains in tokens/s
    flags.py       pure: the child's flags, each with its reason
    plan.py        pure: what fits, put together

Imports: nothing here imports `proxy`. The pure modules import only each other. `keeper.py` and `child.py`
are programs that import nothing of ours, and only `child.py`, the probe and the tiny model import mlx.
"""
