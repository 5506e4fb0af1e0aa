"""The subcommands of mlxguard-proxy that look at something and exit: they start no gateway and no child.

`proxy.cli` parses the command line, loads the settings and calls one of these modules. Each has a function
from settings, or from records on disk, to the text that is printed, so that it can be tested without a
process:

- `check`: what would run with these settings, and where each was set.
- `plan`: what fits on this machine, and the flags that follow; traces the model in a short-lived process.
- `clients`: the configuration of an agent or SDK for this proxy; prints it, writes it where the client looks,
  or starts the client with it.
- `limits`: what crashes taught about memory; prints or forgets it.
- `crashes`: lists the crash reports, or explains one.
- `installation`: whether another package hides ours. The command line asks it before it imports anything else
  of ours, so that module imports the standard library only.

(`doctor` has a package of its own; `serve` is `proxy.server`.)

Invariants:

- Commands may run while a proxy is running. They take no lock, and only `limits reset` writes to the state
  folder. Only `clients --write` writes outside it: to files of clients, each with a backup.
- Standard output has the result only, as text or, with `--json`, as one JSON document; errors go to standard
  error.
- Exit codes are those of `proxy.exit_codes`.

Modules are imported by the command line when their command runs, to keep the others fast. They may use
`proxy.planning`, `proxy.config`, `proxy.clients` and the supervisor, but not the gateway itself.
"""
