"""The schema of proxy.toml as frozen, typed settings.

Every key is a field here, with its default and the comment that `proxy.toml` shows. The names in [prompt] and
[memory] are those of mlx-lm pull request #948; docs/configuration.md says where their meaning differs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import psutil
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints
from pydantic_core import PydanticCustomError

_SIZE = re.compile(
    r"(?P<number>[0-9]{1,18}(\.[0-9]{1,18})?) *((?P<prefix>[KMGT])(?P<binary>I)?)?B?", re.IGNORECASE
)
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(value: object) -> int:
    """Bytes from `24GB`, `512MiB`, `0.75` (a fraction of this machine's RAM) or a whole number of bytes.

    `GB` is a power of 1000, as in the server's own --prompt-cache-bytes; `GiB` is a power of 1024, as the
    Metal working set is often given. Raises PydanticCustomError if the value is none of these.
    """
    text = "" if isinstance(value, bool) else str(value).strip()
    match = _SIZE.fullmatch(text)
    if match is None:
        raise PydanticCustomError("size", 'a size such as "24GB", "24GiB" or 0.75 (of RAM)')
    number = match["number"]
    if match["prefix"]:
        base = 1024 if match["binary"] else 1000
        return round(float(number) * float(base) ** _POWER[match["prefix"].upper()])
    if "." not in number:
        return int(number)
    if float(number) > 1:
        raise PydanticCustomError("size", "a fraction of RAM between 0.0 and 1.0, or a size with its unit")
    return int(float(number) * psutil.virtual_memory().total)


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise PydanticCustomError("pattern", expected)
        return value

    return AfterValidator(check)


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _zero_is_none(value: object) -> object:
    return None if value == 0 and value is not False else value


def _path_text(value: object) -> object:
    return os.path.expanduser(value) or None if isinstance(value, str) else value  # noqa: PTH111 - pathlib raises


Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Port = Annotated[int, Strict(), Field(ge=0, le=65535)]
Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, Strict(), Field(ge=0)]
SomeDuration = Annotated[float, Strict(), Field(gt=0)]
SomeBytes = Annotated[Size, Field(ge=1)]
AutoCount = Literal["auto"] | Count
AutoSize = Literal["auto"] | Size
AutoSomeBytes = Literal["auto"] | SomeBytes

Text = Annotated[str, StringConstraints(min_length=1)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_none)]
OptionalPath = Annotated[Path | None, BeforeValidator(_path_text)]
T = TypeVar("T")
#: A list without repetitions.
Unique = Annotated[tuple[T, ...], AfterValidator(_unique)]
#: A key is a `b64token` of RFC 6750, which can follow `Bearer `. It has no colon, so a name may precede it.
ApiKey = Annotated[
    str,
    _matching(
        r"([A-Za-z0-9_.-]+:)?[A-Za-z0-9._~+/-]+=*", "KEY or NAME:KEY, of letters, digits and - . _ ~ + / ="
    ),
]
#: Any scheme is allowed: desktop apps send origins such as `app://obsidian.md`.
Origin = Annotated[
    str, _matching(r"[a-z][a-z0-9+.-]*://[^/*\s]+", 'an origin as "http://localhost:3000", without path or *')
]
Host = Annotated[str, _matching(r"[^/*@\s]+", "a host name, without scheme, path or *")]
ImageHost = Annotated[
    str,
    _matching(
        r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", "HOST or HOST:PORT in lower case, without scheme"
    ),
]
TemplateArgument = Annotated[
    str,
    _matching(r"[A-Za-z_][A-Za-z0-9_]*(=[^=|]+(\|[^=|]+)*)?", 'an argument as "NAME" or "NAME=VALUE|VALUE"'),
]


def setting(default: Any, description: str, **options: Any) -> Any:
    """A field with its default and the comment that proxy.toml shows for it."""
    return Field(default, description=description, **options)


class Section(BaseModel):
    """One table of proxy.toml; the docstring of a subclass is the comment above the table."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ServerSettings(Section):
    """Where agents connect, and limits on their connections."""

    host: Text = setting("127.0.0.1", "Address to listen on. Anything but loopback needs api_keys.")
    port: Port = setting(8080, "Port to listen on; 0 picks a free one.")
    api_keys: Unique[ApiKey] = setting(
        (), 'Keys for "Authorization: Bearer KEY", each as "KEY" or "NAME:KEY".', repr=False
    )
    api_keys_file: OptionalPath = setting(
        None, "More keys, one per line, in a file that only you can read (0600)."
    )
    insecure: Flag = setting(False, "Allow an address other than loopback without keys.")
    allowed_hosts: Unique[Host] = setting(
        (), "Accepted host names, besides loopback and `host` (DNS rebinding)."
    )
    allowed_origins: Unique[Origin] = setting(
        (), 'Web pages that may connect, as "http://localhost:3000". Empty: none.'
    )
    max_body_bytes: SomeBytes = setting(64 * 10**6, "Largest request body.")
    body_timeout_s: SomeDuration = setting(60.0, "A request body must arrive within this time.")
    body_min_bytes_per_s: Count = setting(1000, "After 10 s, a body must have arrived this fast on average.")
    header_timeout_s: SomeDuration = setting(15.0, "Request line and headers must arrive within this time.")
    idle_timeout_s: SomeDuration = setting(75.0, "A connection without a request is closed after this time.")
    send_timeout_s: SomeDuration = setting(
        120.0, "A client that reads nothing of its response for this long is dropped."
    )
    max_connections: Count = setting(512, "Open connections; another one gets 503.")
    connections_per_address: Count = setting(256, "Open connections from one address.")


class ModelSettings(Section):
    """What is served."""

    path: Annotated[Text, AfterValidator(os.path.expanduser)] = setting(
        "tiny", 'Folder, Hugging Face id, or "tiny" (embedded, random weights).'
    )
    served_name: OptionalText = setting(None, "Name that clients see. Empty: the last part of `path`.")
    aliases: Unique[Text] = setting((), "Other names that clients may use for it.")
    revision: OptionalText = setting(None, "Branch, tag or commit of a Hugging Face id. Empty: main.")
    trust_remote_code: Flag = setting(False, "Run Python code that comes with the model.")


class UpstreamSettings(Section):
    """The child: the unmodified mlx_lm.server behind the proxy. "auto" leaves a flag to the plan."""

    command: tuple[Text, ...] = setting(
        (), "Command that runs the server. Empty: the mlx_lm.server installed here."
    )
    args: tuple[str, ...] = setting((), 'More flags for it, as ["--temp", "0.7"].')
    telemetry: Literal["on", "off"] = setting(
        "on", '"off": run the plain server command, without its memory figures.'
    )
    prefill_step_size: AutoCount = setting("auto", "Tokens per prefill step.")
    decode_concurrency: AutoCount = setting("auto", "Requests that decode together.")
    prompt_concurrency: AutoCount = setting("auto", "Requests that prefill together.")
    prompt_cache_bytes: AutoSize = setting("auto", "Bytes that the server's prompt cache may use.")
    prompt_cache_size: AutoCount = setting("auto", "Sequences that the prompt cache may hold.")
    mlx_cache_limit: AutoSize = setting("auto", "Freed memory that MLX may keep for reuse.")


class PromptSettings(Section):
    """Limits of prompts, and what happens to longer ones."""

    max_prompt_tokens: AutoCount = setting(
        "auto", 'Longest prompt. "auto": what the model\'s context and the plan allow.'
    )
    compaction_headroom_tokens: Whole = setting(
        0, "By how much the compaction of a refused conversation may be longer."
    )
    prompt_overflow_policy: Literal["error", "truncate"] = setting(
        "error", 'Over the limit: refuse ("error") or cut the oldest turns ("truncate").'
    )
    prompt_keep_tokens: Whole = setting(
        0, "With truncate: tokens at the start to keep, rounded up to messages."
    )
    default_max_tokens: Count = setting(
        4096, "max_tokens if a request gives none (the server's own default is 512)."
    )
    max_kv_size: Annotated[Count | None, BeforeValidator(_zero_is_none)] = setting(
        None, "Most tokens of prompt and completion together. 0: no limit."
    )
    trim_tool_output: Flag = setting(False, "With truncate: also shorten the largest old tool results.")


class RequestSettings(Section):
    """What a request may ask for besides text and sampling; anything not listed is refused."""

    template_arguments: Unique[TemplateArgument] = setting(
        (), 'More chat_template_kwargs to allow: "NAME" or "NAME=VALUE|VALUE".'
    )
    role_mapping: Flag = setting(False, "Allow role_mapping, for models without a chat template.")
    adapters: Unique[Text] = setting((), "Folders that `adapters` may name. Switching loads the model again.")
    draft_models: Unique[Text] = setting((), "What `draft_model` may name. Switching loads the model again.")
    structured_output: Literal["retry", "ignore", "refuse"] = setting(
        "retry", 'JSON answers, forced calls: check and ask again, "ignore" or "refuse".'
    )
    model_sampling_defaults: Flag = setting(
        True, "Send the model's own sampling defaults where a request names none."
    )
    max_images: Whole = setting(8, "Images per request, if the model accepts any. 0: none.")
    max_image_bytes: SomeBytes = setting(20 * 10**6, "Largest image.")
    max_image_pixels: Count = setting(50 * 10**6, "Pixels of all images of a request together.")
    image_hosts: Unique[ImageHost] = setting((), "HOST or HOST:PORT from which the proxy may fetch images.")
    image_timeout_s: SomeDuration = setting(10.0, "All images of a request must be fetched within this time.")


class MemorySettings(Section):
    """Limits on memory. "auto" leaves a limit to the plan."""

    max_active_memory_bytes: AutoSomeBytes = setting(
        "auto", 'All memory of the child, as "24GB" or 0.75 (of RAM).'
    )
    max_active_kv_bytes: AutoSomeBytes = setting("auto", "KV cache of all running requests together.")
    reserve_system_bytes: AutoSize = setting("auto", "Memory left for the system and other programs.")


class QueueSettings(Section):
    """How requests are queued."""

    max_waiting: Whole = setting(64, "Requests that may be queued; another one gets 503.")
    max_wait_s: Duration = setting(
        600.0, "Longest time that a request waits, restarts of the child included."
    )
    fairness: Literal["key", "session", "none"] = setting(
        "key", 'Take turns by "key" (without keys by "session"), or "none".'
    )
    headers_after_s: Duration = setting(2.0, "A stream that waits longer gets its 200, then keep-alives.")
    keepalive_s: SomeDuration = setting(5.0, "A silent stream gets a comment this often.")


class SupervisorSettings(Section):
    """How the child is watched and restarted."""

    state_dir: OptionalPath = setting(
        None, "Lock, crash reports, learned limits. Empty: the platform's folder."
    )
    start_timeout_s: SomeDuration = setting(
        600.0, "The child must produce a token within this time of its start."
    )
    stall_s: SomeDuration = setting(
        60.0, "A busy child without progress for this long is tested, then restarted."
    )
    canary_timeout_s: SomeDuration = setting(
        10.0, "A test request (canary) must be answered within this time."
    )
    max_restarts: Whole = setting(5, "After more crashes than this within restart_window_s, it gives up.")
    restart_window_s: SomeDuration = setting(300.0, "Time window of max_restarts.")
    backoff_base_s: Duration = setting(
        0.5, "Longest wait before the second restart in a window; then it doubles."
    )
    backoff_max_s: Duration = setting(30.0, "Longest wait before any restart.")
    cooldown_s: Duration = setting(600.0, "After giving up, the child is tried again after this long.")
    drain_s: Duration = setting(30.0, "At a stop, running requests may finish within this time.")
    sigint_grace_s: Duration = setting(10.0, "Then the child gets SIGINT, and this long to exit.")
    sigterm_grace_s: Duration = setting(5.0, "Then SIGTERM, and this long before SIGKILL.")
    max_age_h: Duration = setting(0.0, "Restart the child gracefully after this many hours. 0: never.")


class LogSettings(Section):
    """What is logged, and where."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Least severe level that is logged."
    )
    format: Literal["auto", "human", "json"] = setting(
        "auto", '"auto": human-readable on a terminal, JSON elsewhere.'
    )
    file: OptionalPath = setting(None, "Also append to this file, as JSON.")


class Settings(Section):
    """The whole of proxy.toml; attribute names are the table names."""

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    prompt: PromptSettings = PromptSettings()
    request: RequestSettings = RequestSettings()
    memory: MemorySettings = MemorySettings()
    queue: QueueSettings = QueueSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    log: LogSettings = LogSettings()


#: Table name -> its schema, in the order of proxy.toml.
SECTIONS: dict[str, type[Section]] = {
    name: type(field.default) for name, field in Settings.model_fields.items()
}

#: Old name of a setting -> its present name, for the fault that it gives.
RENAMED = {
    ("queue", "hold_grace_s"): ("queue", "headers_after_s"),
    ("server", "read_timeout_s"): ("server", "send_timeout_s"),
}
