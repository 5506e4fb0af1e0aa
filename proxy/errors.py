"""The tree of errors that clients get: each has its HTTP status, its OpenAI error object and its retry hint.

The wording is part of the interface. Coding agents match on it: the overflow text makes them compact the
conversation, the unavailable text makes them retry. Hence three rules, checked by tests/proxy/test_errors.py:
the overflow text does not mention rates; the unavailable text does not mention contexts or token limits; no
other 4xx text contains a number that looks like a retryable status.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

#: Retry-After is drawn from this range of whole seconds, so that refused clients do not all return at once.
RETRY_AFTER_RANGE = (10, 30)


class GatewayError(Exception):
    """A failure that is reported to the client. Subclasses fix the status and the OpenAI `type` and `code`.

    Attributes:
        param: the request field at fault, dotted and indexed as in `messages[2].content`, or None.
        retryable: True if the same request may succeed later (sends Retry-After), False if it never will
            (sends `x-should-retry: false`, which openai-python obeys), None if it is unknown (sends neither).
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    retryable: bool | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The OpenAI error object; agents require `error` to be an object with a string `message`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        """The headers that belong to the error. `retry_after_s`: whole seconds, drawn by the caller."""
        if self.retryable is None:
            return {}
        if not self.retryable:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(retry_after_s)}


class ClientError(GatewayError):
    """The client must change something before it tries again."""

    status = 400
    type = "invalid_request_error"
    retryable = False


class InvalidRequest(ClientError):
    """The request cannot be served as it is; `param` names the field."""

    code = "invalid_value"


class Quarantined(InvalidRequest):
    """This very request has crashed the model server more than once, and is refused for some time."""

    code = "quarantined"

    def __init__(self) -> None:
        super().__init__(
            "This request is refused: each time it ran, it ended the model server. It will be tried again "
            "after some time; change it to have it served before."
        )


class CountingStalled(InvalidRequest):
    """The tokenizer or the chat template was at work on this very request for so long that it was stopped."""

    code = "counting_stalled"

    def __init__(self, param: str) -> None:
        super().__init__(
            "Counting the tokens of this request was given up, as it took too long. Sending it again would "
            "not help: shorten or change it.",
            param=param,
        )


class PromptTooLong(InvalidRequest):
    """Overflow: the prompt exceeds the limit, or can never fit in memory. Agents compact and go on."""

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
    """The prompt is within the limit, but there is not enough memory for it even if it runs alone."""


class UnfitAnswer(InvalidRequest):
    """The model's answers did not have the form that the request demands.

    `problem` is about the client's own answer, which it may see; it goes into no log.
    """

    status = 422
    code = "structured_output_failed"

    def __init__(self, problem: str, *, answers: int, param: str) -> None:
        super().__init__(
            f"The model's answer does not have the form that {param} demands, asked {answers} times. "
            f"In the last one, {problem}",
            param=param,
        )


class Unauthorized(ClientError):
    """The API key is missing or unknown."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    """The Host or the Origin is not allowed."""

    status = 403
    code = "forbidden"


class NotFound(ClientError):
    """The path does not exist."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The request names another model than the served one; the child must not see it, or would load it."""

    code = "model_not_found"

    def __init__(self, served: str) -> None:
        super().__init__(f"This model does not exist here: this server has {served!r}.", param="model")


class MethodNotAllowed(ClientError):
    """The path exists, but not for this method; `allowed` are its methods."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__("This path does not take this method.")
        self.allowed = tuple(sorted(allowed))

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        return {**super().headers(retry_after_s), "Allow": ", ".join(self.allowed)}


class RequestTimeout(ClientError):
    """Head or body came too slowly: `[server] header_timeout_s`, `body_timeout_s`, `body_min_bytes_per_s`."""

    status = 408
    code = "request_timeout"


class BodyTooLarge(ClientError):
    """The request body is larger than `[server] max_body_bytes`."""

    status = 413
    code = "request_too_large"


class UnsupportedEncoding(ClientError):
    """The body's Content-Encoding is not supported."""

    status = 415
    code = "unsupported_encoding"


class HeadTooLarge(ClientError):
    """The request line or a header is too long, or there are too many headers."""

    status = 431
    code = "headers_too_large"


class Unavailable(GatewayError):
    """Busy or restarting: the same request may succeed later.

    `reason` goes to logs and metrics, never to the client: agents match on the constant text.
    `retry_after_s`: when it may succeed, if that is known; otherwise the caller draws a time.
    """

    status = 503
    code = "503"
    retryable = True

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(
            "Service unavailable: the model server is overloaded or restarting. Please retry your request."
        )
        self.reason = reason
        self._retry_after_s = retry_after_s

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        known = self._retry_after_s
        return super().headers(retry_after_s if known is None else max(1, math.ceil(known)))


class Cancelled(GatewayError):
    """An administrator cancelled the request."""

    status = 503
    code = "cancelled"
    retryable = False

    def __init__(self) -> None:
        super().__init__("This request was cancelled by an administrator.")


class RestartFailed(Unavailable):
    """Restarting was given up, or the cause persists: retrying does not help.

    `cause`: a sentence for the client, with nothing in it from outside.
    """

    retryable = False

    def __init__(self, reason: str, cause: str = "") -> None:
        super().__init__(reason)
        failed = "Service unavailable: restarting the model server has failed."
        self.message = " ".join(filter(None, (failed, cause, "See the proxy's log.")))

    def headers(self, retry_after_s: int) -> Mapping[str, str]:
        return {"Retry-After": str(retry_after_s), "x-should-retry": "false"}


class UpstreamFailed(GatewayError):
    """The child could not complete this request, but lives: a request failure, not a death."""

    code = "upstream_error"

    def __init__(self, reason: str) -> None:
        super().__init__("The model server could not complete this request.")
        self.reason = reason


class InternalError(GatewayError):
    """A bug of the gateway; the log has the traceback under the request id."""

    def __init__(self) -> None:
        super().__init__("Internal error in the proxy; its log has the details under this request's id.")
