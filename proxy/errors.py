"""One tree of errors: each knows its HTTP status, its OpenAI error object and whether to come back.

The wording is part of the interface. Coding agents match on it: the overflow text makes them compact
the conversation, the unavailable text makes them retry. Hence three rules, held by
tests/proxy/test_errors.py: the overflow text says nothing of rates; the unavailable text says nothing of
contexts or token limits; no other 4xx text contains a number that looks like a retryable status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Whole seconds between which a Retry-After is drawn, so that refused clients do not return together.
RETRY_AFTER_RANGE = (10, 30)


class GuardError(Exception):
    """A failure that a client is told of. Subclasses fix the status and the OpenAI `type` and `code`.

    Attributes:
        param: the request field at fault, dotted and indexed as in `messages[2].content`, or None.
        come_back: True if the same request may succeed later (sends Retry-After), False if it never
            will (sends `x-should-retry: false`, which openai-python obeys), None to say neither.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    come_back: bool | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The OpenAI error object; agents require `error` to be an object with a string `message`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        """What agents read beside the body. `retry_after_s`: whole seconds, drawn by the caller."""
        if self.come_back is None:
            return {}
        if not self.come_back:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(retry_after_s)}


class InvalidRequest(GuardError):
    """The request cannot be served as it is; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"
    come_back = False


class Quarantined(InvalidRequest):
    """Poison: this very request has ended the model server more than once, and is refused for some time."""

    code = "quarantined"

    def __init__(self) -> None:
        super().__init__(
            "This request is refused: each time it ran, it ended the model server. It will be tried again "
            "after some time; change it to have it served before."
        )


class PromptTooLong(InvalidRequest):
    """Overflow: the prompt is over the limit, or can never fit. Agents compact and go on."""

    code = "context_length_exceeded"

    def __init__(self, *, prompt_tokens: int, max_tokens: int, limit: int, param: str = "messages") -> None:
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        super().__init__(
            f"prompt is too long: {prompt_tokens} tokens > {limit} maximum (context_length_exceeded). "
            f"This model's maximum context length is {limit} tokens. However, you requested "
            f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the messages, {max_tokens} in the "
            "completion). Please reduce the length of the messages or completion.",
            param=param,
        )


class NeverFits(PromptTooLong):
    """Within the limit on prompts, but even with nothing beside it there is no memory for it."""


class Unauthorized(GuardError):
    """No key, or one that is not known."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    come_back = False


class Forbidden(GuardError):
    """A host or an origin that is not allowed in."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"
    come_back = False


class NotFound(GuardError):
    """No such path."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"
    come_back = False


class ModelNotFound(NotFound):
    """Another model than the one that is served; it never reaches the child, which would load it."""

    code = "model_not_found"

    def __init__(self, served: str) -> None:
        super().__init__(f"This model does not exist here: this server has {served!r}.", param="model")


class MethodNotAllowed(GuardError):
    """The path exists, but not for this method; `allowed` are those that it is there for."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    come_back = False

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__("This path does not take this method.")
        self.allowed = tuple(sorted(allowed))

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        return {**super().headers(retry_after_s), "Allow": ", ".join(self.allowed)}


class RequestTimeout(GuardError):
    """Head or body did not arrive in time: `[server] header_timeout_s`, `body_timeout_s`, or its rate."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    come_back = False


class BodyTooLarge(GuardError):
    """The request body is larger than `[server] max_body_bytes`."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    come_back = False


class UnsupportedEncoding(GuardError):
    """The body is compressed in a way that is not known here."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"
    come_back = False


class HeadTooLarge(GuardError):
    """The request line, a header, or their number is over the bound."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"
    come_back = False


class Unavailable(GuardError):
    """Busy or restarting: the same request may succeed later.

    `reason` goes to logs and metrics, never to the client: agents match on the constant text.
    """

    status = 503
    code = "503"
    come_back = True

    def __init__(self, reason: str) -> None:
        super().__init__(
            "Service unavailable: the model server is overloaded or restarting. Please retry your request."
        )
        self.reason = reason


class Cancelled(GuardError):
    """An administrator ended the request."""

    status = 503
    code = "cancelled"
    come_back = False

    def __init__(self) -> None:
        super().__init__("This request was cancelled by an administrator.")


class RestartingFailed(Unavailable):
    """The restart budget is used up, or the cause cannot heal: coming back does not help.

    `cause`: a sentence for the client, in words of ours alone.
    """

    come_back = False

    def __init__(self, reason: str, cause: str = "") -> None:
        super().__init__(reason)
        told = "Service unavailable: restarting the model server has failed.", cause, "See the proxy's log."
        self.message = " ".join(filter(None, told))

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        return {"Retry-After": str(retry_after_s), "x-should-retry": "false"}


class UpstreamFailed(GuardError):
    """The answer broke while the child lives: a request failure, not a death."""

    code = "upstream_error"

    def __init__(self, reason: str) -> None:
        super().__init__("The model server could not complete this request.")
        self.reason = reason


class InternalError(GuardError):
    """A bug of ours; the log has the traceback under the request id."""

    def __init__(self) -> None:
        super().__init__("Internal error in the proxy; its log has the details under this request's id.")
