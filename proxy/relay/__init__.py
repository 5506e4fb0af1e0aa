"""Serves one accepted request at the child, through failures of the child and of its client.

The journey (proxy/api/completions.py) hands the relay a `Job` that was parsed, counted and fitted. `relay`
takes it through rounds, until one answer is complete:

    enter the gate -> granted -> child ready -> attempt ... [DONE]
         ^                                         |
         +---- requeue, if it may be run again ----+

- `attempt` asks the child once and passes on what it answers; a failure is an `UpstreamBroken`.
- `recovery` settles a failure: it asks the supervisor whether the child died, `break_policy` what follows
  from that, and raises the client's error or says whether the request is run again. A tool call that the
  child could not read is asked for once more, with another sample; after that the answer ends with a text.
- `quarantine` attributes a death to requests before any of them goes on (`blame` decides), and says how
  isolated each must be, once in each round before the attempt and once before it is requeued.
- `disconnects` keeps the slot of a request whose connection was broken off until the child has dropped it
  (`drop_detection` decides), since its memory is still in use.
- `client` and `streaming_client` are the two kinds of clients; `registry` lists the jobs of this moment.

Invariants: a client that was sent content is never sent another attempt's. A replay keeps its arrival, so
that after a restart requests run again in the order in which they came. A job's outcome is final when `serve`
ends, however it ends. No text of a prompt or an answer reaches the log or a file; requests go by their
fingerprints.

The package is below `proxy.api` and never imports it, nor memory or the tokenizer worker. `blame`,
`break_policy` and `drop_detection` are pure.
"""
