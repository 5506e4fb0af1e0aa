"""Finds out what a model's caches cost, from shapes, without loading its weights.

MLX is lazy: a model that is built from config.json and called without being evaluated knows the shape of
every cache array. `trace` does that in a short-lived process, since it imports mlx and runs the code of the
architecture; `cache_classes` turns the caches into parts of a cost model, and checks them against a second
trace.

`client` is what others call: `trace_model` before a plan is made, `offered_flags` for what the server's own
--help names, `model_digest` for the revision that learned limits apply to. It caches the results in the cache
folder, by everything that they depend on.

Invariants: a model that cannot be traced, for whatever reason, gets an upper bound and the reason; a crash or
a time-out of the process is never cached; the document of a trace has the fields of
`memory_model.activations.Traced`. Only `trace` may import mlx, and only inside its functions; `client` must
never import `trace` or `cache_classes`.
"""
