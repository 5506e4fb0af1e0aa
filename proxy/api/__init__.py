"""The HTTP API: one handler for each path, and what the gateway tells about itself.

`completions` is the journey of a request: it reads and parses the body, counts and fits the prompt, hands a
`Job` to the relay, and records how it ended. Read it first; every other package appears there in the order in
which a request meets it. The others: `pages` (models, health, metrics, status, openapi), `status` and
`metrics` (the state of all parts, and what is counted), `explain` and `cost_preview` (what would happen to a
request, without running it), `admin` (recycle the child, cancel a request), `router` (all paths).

`proxy.app` builds the handlers; aiohttp calls them, inside the middleware of `proxy.http`.

Invariants:
- A handler raises errors of `proxy.errors`; the middleware turns them into responses.
- A request is recorded exactly once, however it ends.
- Nothing here decides about admission, memory or restarts; `explain` asks the gate itself, so that its answer
  cannot differ from what the gate would do.
- Paths, ranges and statuses in `openapi.json` are those of the code; tests compare them.

No other package may import this one, except `proxy.app` and `proxy.server` above it.
"""
