"""Plans each start of the child, prepares what counting prompts needs, and remembers what was learned.

Order of use: the supervisor calls `preparation.Preparation.prepare` before each start. It resolves the model,
has `planner.Planner` make the plan (a trace of the model and of `draft_models`, the flags that the server
offers, the machine's memory, what was learned), turns settings and plan into the child's command line
(`server_flags`), and starts the tokenizer worker once. Requests wait in `Preparation.ready` until it is
loaded. While the child runs, `replan` is called every few seconds, and reads only memory anew.

Learning: `learned_limits.LearnedLimits` is told of deaths, of work that went well and of the gate's
corrections of the cost model, for one model revision, library, set of flags and machine. `learned_state` owns
the file: one section for these limits and one for the suspects of `proxy.relay.quarantine`; damaged content
is set aside and never used.

Invariants: without a plan the child runs with the server's own defaults; a setting overrides the plan; limits
that clients are told change only with a restart of the child. The package must not import relay, gate
decisions or HTTP: of the gate it uses only the corrections and the longest prompt. mlx runs in other
processes only.
"""
