"""Counts prompts exactly before the server sees them, and makes them fit the limits.

`proxy.planning.preparation` starts the `TokenCounter` with the model's folder and the flags of the server,
and builds the `Limits`. For each request `proxy.api.completions` then calls `fit.fit`, which counts the
prompt and decides: pass it on, cut it (`truncation`), let one compaction through (`compaction`), or refuse it
with `PromptTooLong`. `proxy.cache.client` asks the same worker for predictions of the server's prompt cache.

Counting needs the server's tokenizer and chat template, which import mlx and hold the interpreter lock, so it
runs in another process, `proxy.worker`. The way there:

- `counter`: the client; starts the worker, replaces it when it dies, and turns its refusals into responses.
- `worker_process`: one life of the worker process: pipes, a watchdog, requests in order.
- `conversation_delta`: sends only the new messages of a growing conversation; both ends of that protocol.
- `frames`: length-prefixed JSON on the pipes.

Invariants:

- A count equals the server's `usage.prompt_tokens` for what is sent. The relay compares the two after every
  answer (`TokenCounter.check`); after the first difference all prompts are encoded in full.
- What is sent was rendered and counted exactly as it is sent, also after a cut.
- A cut never splits a tool call from its results, and consecutive turns of a session get the same cut as long
  as possible, so that the server's prefix cache still matches.
- The gateway never outwaits a stuck worker: it is killed after `stall_s`, and only the request that it was
  working on is refused.

`truncation` and `compaction` are pure. The package must not import mlx, transformers or `proxy.worker`.
"""
