"""Reads, checks and writes the settings: proxy.toml, environment variables and `--set` options.

`proxy.cli` calls `loader.load` before anything else. It collects the settings from all sources, validates
them together against `settings` (the typed schema) and `rules` (what must hold between settings and on this
machine), and returns `Settings` with the place where each was set. `mlxguard-proxy init` uses `template` to
write a proxy.toml, and `server_command` to translate an existing mlx_lm.server command. `api_keys` and
`folders` are also used while the gateway runs.

Invariants:

- Every fault is reported at once, each with its place (file and line, variable or option), and nothing starts
  while there is one. Unknown names are faults: a misspelt limit would be no limit.
- A setting has its name, default, range and description in `settings` only. proxy.toml is generated from it.
- Settings are frozen; a change needs a restart. Only the keys file is read again while the gateway runs.
- API keys appear in no fault, log line or output, except in the configuration that `mlxguard-proxy clients`
  prints.
- Sources override each other as wholes per setting: file, then environment, then options.

It knows nothing of the model or the server beyond names and ranges, and starts no process. The layers above
(planning, the gateway, the commands) interpret the values; this package must not import them.
"""
