"""Ready configurations for the clients that people use: coding agents, editors, command lines, SDKs.

`recipes` decides, for each client, what it must be told of this proxy (address, key, model, window and
output limits) in the variables and files which that client really reads. Most clients ask no server for its
limits, and one that believes in a larger window than there is compacts too late, so the window is part of
each recipe. `config_file` says where a file lies and merges the recipe's values into the text that is there
already, by `json_text`, `toml_text` and `yaml_text`.

`mlxguard-proxy clients` (proxy.commands.clients) calls it: it finds out the address and the limits, then
prints a recipe, writes its files or starts the client. The README and docs/agents.md show what it prints, and
`make agents` runs the real agents with it.

Invariants:

- Everything here is pure: text in, text out. Files are read and written by the command.
- A merge changes only the recipe's own values. Comments, order, indentation and unknown keys of the existing
  text stay. The result is parsed again, and a merge that would have lost or changed anything else is refused
  (`NotMergeable`), so that the user adds the lines by hand instead.
- Lists of named entries (models, providers) gain or replace one entry; the others stay.
- What a recipe says was seen with the real client, or its comment says that it was only read in its
  documentation.

It may import nothing of the gateway but the line finder for TOML of `proxy.config`.
"""
