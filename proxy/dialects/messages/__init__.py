"""Pure. Anthropic's Messages API, as Claude Code and the Anthropic SDKs speak it.

Source of the protocol: the public API reference (Messages, streaming, errors, token counting), and what the
real client was seen to send and to accept. `forms` has the request's types, `translate` makes the equal chat
request of them, `events` writes the answer, `errors` the failures.

What Claude Code makes necessary:

- The first block of `system` is a billing header that differs by session and changes at each compaction. It
  is dropped, or nothing of the prompt's prefix would survive.
- Tools with `defer_loading` are left out of the tools: the client's ToolSearch brings them in one by one, in
  the middle of the list, and each time the prompt would change near its beginning. Their schema is put into
  the result of the search instead, at the end of the prompt.
- An overflow must be answered before the stream begins, as status 400. Told in the stream, it does not make
  the client compact.
- In the stream, `overloaded_error` is the one error after which it asks for a stream again (before content).
"""
