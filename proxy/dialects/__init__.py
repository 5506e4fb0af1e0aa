"""Pure. Serves two more protocols through the chat journey: Anthropic's Messages and OpenAI's Responses.

Claude Code speaks only the first, Codex only the second. A dialect is translated at the two ends of a request
and nowhere between: the body becomes the `CompletionRequest` of an equal chat request, and the child's stream
becomes the dialect's events. Counting, fitting, the gate, the relay, replay and settling never learn which
dialect a request came in.

The caller (`proxy.api`) goes through these steps:

- `messages` or `responses` reads and translates the body (`loading` has the typed forms) and returns a
  `translation.Translation`, whose `request` is what the journey works on.
- Once the prompt is counted, `Translation.form` gives the `form.AnswerForm` of the answer: what opens its
  stream, what keeps it alive, what ends it early, and one new `form.EventWriter` for each attempt.
- `errors` gives the body and headers of a failure before anything was sent, by the request's path.

Invariants:

- What differs between turns or sessions without meaning (billing headers, ids of items, cache marks) never
  reaches the prompt, so a growing conversation keeps its prefix in the child's prompt cache.
- Nothing that a client keeps in its history makes a later request fail: what cannot be shown to the model
  becomes a short text, and unknown fields, blocks and items are ignored. Only the last turn of the user, and
  what would mislead in silence (`previous_response_id`), is refused.
- A dialect's stream is valid whatever the child sends, at whatever bytes its stream is cut. Its ids come from
  the answer's id, so they are the same in a replay.
- Token counts add up: input and cached tokens together are the prompt that was counted.

It may never import aiohttp, the clock or anything that does I/O; ids and times are arguments.
"""
