"""The client's side of the wire: connections, who may use them, and how bodies and errors travel.

This package turns a TCP connection into a request that `proxy.api` can trust, and every failure into the
documented JSON error. A connection meets the modules in this order:

    early_listener     listens before the slow imports are done; answers /livez, holds everything else
    connection         one aiohttp connection: connection_limits when it opens, timeouts while it lives,
                       and error bodies for whatever aiohttp cannot parse
    middleware         per request: request id, host, origin and key (access, key_ring), then the handler,
                       then errors as responses
    routes, cors       404, 405 and "100 Continue" without surprises; OPTIONS and CORS headers
    body, body_budget  reads a body within its limits on size, time and total memory
    image_fetch        fetches the remote images of a request from listed hosts only
    responses, via     error responses, the headers of every response, the `Via` header

Invariants:
- Nothing that a client sent is quoted back to it or written to the log.
- A response with an error always carries the OpenAI error object and an `x-request-id`, even if no request
  could be parsed.
- Host, origin, key and declared size are checked before "100 Continue" asks for a body.
- Where framing is in doubt, the connection closes after the response, so that no request can be smuggled.

Decisions (access, connection_limits, timeouts, body_budget, via) are pure: the caller reads the clock. The
package may not import `proxy.api`, `proxy.relay` or `proxy.memory`, and knows nothing of the child.
"""
