"""The tokenizer worker: a process that counts prompts and predicts the server's prompt cache.

`proxy.prompt.counter` starts it as `python -m proxy.worker.main` and sends requests over its standard input.
It is a process of its own because the server's modules import mlx, tokenizers hold the interpreter lock while
they encode, and a model may bring remote code. `main` reads requests one at a time and calls:

- `server_tokenizer` for a count: the server's own tokenizer and chat template, called as the server calls
  them. `render_cache` and `jinja_speedup` make rendering cheap, `segments` encodes only what is new in a
  conversation, `segment_check` finds out by trial whether that is exact for this model, `images` expands
  image tokens.
- `cache_predictor` for what the server's prompt cache will do with a prompt. It simulates the cache
  (`proxy.cache.simulator`) with the token ids and segment ends from `prompt_ids`. `search_shortcuts` and
  `exact_hits` find requests that work around defects of mlx-lm's cache.

Invariants:

- A count equals the server's `usage.prompt_tokens`. Whatever makes encoding faster is used only if it gave
  the same result as the server's own way when the tokenizer was loaded.
- A prompt that a template or tokenizer refuses is an answer with the name of the exception, never a crash.
- A failed prediction is logged and never fails a count.
- The process ends when its input ends or its lifeline closes, even while it computes.

Only this package imports mlx, mlx_lm, transformers and tokenizers; the gateway must never import it.
"""
