"""The client of the child: bytes to it and from it, without any meaning beyond HTTP.

The child is Python's http.server: HTTP/1.0, one connection for each request, and a body that ends with the
connection. So an end proves nothing, no connection is used twice, and a client that disconnects at the wrong
moment makes the child generate to the end for nothing. This package hides all of that:

- `client` connects within the child's small backlog, asks, and disconnects only when the child notices.
- `exchange` is one request at the child: its answer, read as it comes, until it is over or aborted.
- `http10` is the connection; it reads its socket in the event loop's callback.
- `broken` is the one exception that callers see: it has the kind of the failure, never its cause.

The relay calls `Upstream.post` once for each attempt, internal requests and the doctor once for each request;
each reads within the block and is told at its end whether the child may still be at work. What a failure
means for the request is decided by the relay (proxy/relay/break_policy.py).

Invariants: a request is sent at most once, as only connecting is retried. A connection is closed by a reset,
which the child notices at its next write. `on_end` is called exactly once. No read outlasts a dead child.

The package never imports the gate, jobs or clients, and knows nothing of tokens.
"""
