"""The gateway: one process that agents talk to, in front of one unmodified mlx_lm.server child.

A request's way, which is also the order to read the code in:

    edge      edge.py       host, origin, key, request id, size, time to arrive; errors become answers
    parse     core/chat.py  bytes -> CompletionRequest: typed, strict, mended where the meaning is clear
    count     tokens.py     exact prompt tokens, by a worker process that runs the server's own code
    fit       fitting.py    over the limit: refuse, or cut whole turns (core/truncation.py); clamp max_tokens
    gate      gate.py       wait for memory and a place beside the running (core/admission.py decides, by the
                            law that costs.py asks)
    relay     relay.py      hold, keep alive, replay after a death; attempts.py asks the child and streams its
                            answer, breaks.py says what follows when that broke
    settle    handlers.py   release, record, measure

Beside it: inquest.py, which the supervisor asks at each crash whose doing it was (core/blame.py decides),
leaving.py, which sees requests out whose clients have left, ceiling_watch.py, which reads the machine
again, learned_limits.py, what deaths taught of memory, memory_guard.py, which sees that the child does not
run out of it (core/pressure.py), reclaim.py, which takes back what finished sequences hold
(core/displacement.py), synthetic.py, requests of our own to the child, mirroring.py, which follows the
child's prompt cache and foresees its searches, stalls.py, which cures them and evades what would kill it
there, and actions.py, what an administrator may do. Apart from all that: doctor.py, which tries the machine.

Words: the *child* is the supervised server process; a *generation* is one life of it. An *answer* is what
one client gets; it keeps its id over keep-alives and *replays* (running a request again after a death,
while its client has seen no content). A *request failure* breaks one answer; a *child death* restarts.
docs/architecture.md has the whole vocabulary.

Import rules, held by `lint-imports` in `make check`: `proxy` may import `supervisor`, never the other way
round; `proxy.core` is pure (no I/O, no clock, no logging, no randomness); `app.py` is the only module that
builds and wires objects; mlx is never imported here, only in worker and child processes.
"""
