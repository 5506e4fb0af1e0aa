"""Provides the model's folder: the embedded model, a local folder, or a snapshot from the Hugging Face hub.

`resolve.resolve` is called before each start of the child. It returns a folder that is complete enough for
mlx_lm to load, or raises `ModelUnavailable` with one sentence that says what to do; `resolve.describe` reads
facts from config.json and the headers of the weights. `hub_cache` finds a downloaded snapshot without the
hub's client, for commands that must answer fast and must not download.

`download` and `tiny` are programs of their own, as they import the hub's client or mlx, which is slow. `tiny`
makes the embedded model, with `tiny_tokenizer` and `tiny_weights`: small, random or scripted, and the same
bytes on every platform, so that tests and a first run need no download.

Invariants: nothing is downloaded while a complete snapshot is on disk; only transient errors are retried; a
process that is killed leaves no incomplete model behind. `resolve` and `hub_cache` must not import mlx or
huggingface_hub.
"""
