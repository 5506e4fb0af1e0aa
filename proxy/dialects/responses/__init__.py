"""Pure. OpenAI's Responses API, as Codex and the OpenAI SDKs speak it.

Source of the protocol: the public API reference (Responses, streaming events), and what the real client was
seen to send and to accept. `forms` has the request's types, `tools` the kinds of tools, `translate` makes the
equal chat request, `items` and `events` write the answer, `errors` the failures.

What Codex makes necessary:

- It has two kinds of tools that chat has not: tools in a namespace, and custom tools whose input is free
  text. Both become functions, and a call of one becomes the client's kind of call again; a call without its
  namespace would be refused.
- Its clock counts parsed events, so comments do not keep it waiting: each sign of life is an event.
- It knows no error in a stream but `response.failed`, and takes `response.incomplete` for one: an answer that
  reached its length ends as completed, unless the client has set the length itself.
- Its compaction request has no tools, so the prompt would share nothing with the conversation that it
  compacts. `last_tools` remembers the tools of a conversation and puts them back.
- Without Retry-After it repeats a failed request 30 times within half a minute.

Nothing is stored: what needs an earlier response (`previous_response_id`, `store`, `background`) is refused.
"""
