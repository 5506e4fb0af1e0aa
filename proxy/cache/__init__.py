"""The child's prompt cache as the gateway predicts it, and the requests that change it.

mlx_lm.server keeps finished prompts and answers in a trie (`LRUPromptCache` of mlx_lm/models/cache.py). It
does not report what this decides: how much of the next prompt is already computed, how long the server
searches before it computes anything (seconds, in which it looks dead), and whether the prompt equals an
entry, which kills the server. This package predicts all three.

- `simulator` and `radix_tree` follow that cache entry by entry. They run in the tokenizer worker, which has
  the token ids (proxy/worker/cache_predictor.py); the gateway only imports their types.
- `client` is the gateway's side of the predictor: `counting` before a request is accepted, then for each
  request `predict`, `ask`, `read`, `ended`, in this order. `staleness` decides when a prediction still holds;
  `search_times` turns search costs into seconds, and announces silences to the supervisor.
- `search_stalls` is what the relay sees: it follows a job through those four steps, and works around two
  defects of mlx-lm before and after them.
- `internal_requests` is the way to the child for the gateway's own requests, which search stalls and memory
  reclaim both use; `eviction` decides which requests push retained sequences out, and when that is enough.

Invariants: nothing depends on a prediction, so without the worker requests are served as they would be
anyway. The predictor hears of everything that changes the child's cache, including internal requests, in the
order in which it happens. A death while an internal request is at the child blames no user's request.

The package never imports the relay, memory or HTTP. `simulator`, `radix_tree`, `staleness` and `eviction` are
pure.
"""
