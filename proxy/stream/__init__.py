"""Pure. Understands the child's stream of server-sent events and turns it into what the client gets.

The relay (`proxy.relay`) makes one `Answer` per client, with an id and a creation time that stay the same
over keep-alives and replays. For each attempt at the child it makes a new consumer of that attempt's bytes:

- `rewrite.Rewriter` for a streaming client: events go out under the answer's identity, otherwise unchanged.
- `aggregate.Aggregator` for a client that wants one body: the child is asked to stream all the same, so that
  silence can be told from work, and the events are collected into the body it would have sent.
- `aggregate.WholeBody` for a request with log probabilities, which the child reports only unstreamed.

Before any of them, `tool_calls.StreamCalls` (or `BodyCalls`) sees to it that calls come whole or not at all.

Each has the same interface. `pass_through(data)` handles bytes of the common kind without parsing and says
so, or changes nothing; `feed(data)` handles anything; `end()` says that the connection ended. `seen`
(`StreamProgress`) tells what the attempt has shown so far; an attempt is complete if and only if `seen.done`.

Invariants:

- A stream is cut into events by `sse.EventSplitter` only; the work is linear in the bytes whatever pieces
  they arrive in, and an event without end raises `Malformed` rather than fill the memory.
- Whatever is not an event of the child's API raises `Malformed`. The relay treats it as a failed attempt.
- The common event (one more piece of text) is not parsed: a burst passes at about a microsecond per event.

It imports orjson and pure parts of the standard library only: no I/O and no clock (callers pass the time).
"""
