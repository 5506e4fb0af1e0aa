"""mlxguard-proxy: a gateway that agents talk to, in front of one unmodified mlx_lm.server process.

The *gateway* is this package, one asyncio process. The *child* is the mlx_lm.server that `supervisor` starts,
watches and restarts; a *generation* is one run of it. The gateway sees to it that a request gets its answer
although the child may be slow, short of memory, or dead: it admits only what fits in memory, keeps waiting
clients alive, and runs a request again if the child died before the client saw content (a *replay*).

The journey of a request through the packages, which is also the order to read them in:

    http      accepts the connection, checks host, origin and key, reads the body
    api       `completions` calls the following in turn; the other endpoints only look
    request   pure: parses bytes into a typed, strict CompletionRequest
    prompt    counts its tokens exactly, by the process of `worker`; truncates or refuses it if it is too long
    cache     predicts what the child's prompt cache saves, and how long its search will block
    gate      queues it until its predicted memory fits with the running requests
    relay     sends it to the child, streams the answer, decides after a failure
    upstream  speaks HTTP/1.0 to the child
    stream    pure: reads the child's events and writes the client's

Around it: `memory` watches the child's memory and acts before it runs out; `planning` decides before the
first request what the machine can hold; `clients` has the configurations of agents; `config`, `log`,
`commands` and `doctor` are what their names say. `app` builds and wires all parts, `server` runs them until a
signal, `startup` opens the port first, `cli` is the command. Words are explained in docs/glossary.md,
decisions in docs/architecture.md.

Import rules, enforced by `make check`: the packages are layers, and none imports one above it; `proxy` may
import `supervisor`, never the reverse; pure modules have no I/O, clock, logging or randomness; only `app`
builds and wires parts; mlx is imported in worker and child processes only.
"""
