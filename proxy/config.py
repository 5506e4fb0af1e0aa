"""proxy.toml as frozen, typed settings.

Every key is a field here, with its default and the comment that `mlxguard-proxy init` writes above it.
The names in [prompt] and [memory] are those of mlx-lm pull request #948 and mean what it meant.
Reading files, the environment and `--set` is `proxy/config_file.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGT]?)(i?)B?)\s*$", re.IGNORECASE)


def parse_size(value: object) -> object:
    """Bytes from `24GB`, `512MiB`, `0.75` (a share of RAM), or a whole number of bytes.

    Decimal units are powers of 1000, binary ones (`GiB`) of 1024, as macOS and the server's own
    `--prompt-cache-bytes` read them. Anything else is returned as it is, for pydantic to refuse.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            return value
        number, unit, binary = match.groups()
        if not unit and "." in number:
            return parse_size(float(number))
        base = 1024 if binary else 1000
        return int(float(number) * base ** "KMGT".find(unit.upper() or "-") * base) if unit else int(number)
    if isinstance(value, float) and 0 < value <= 1:
        return int(value * psutil.virtual_memory().total)
    return value


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
AutoSize = Literal["auto"] | Size
Seconds = Annotated[float, Field(ge=0)]
Names = Annotated[tuple[str, ...], AfterValidator(_unique)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ServerSettings(Section):
    """Where agents come in."""

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs api_keys.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys: Names = Field((), description="Keys that clients must send as `Authorization: Bearer KEY`. Empty: none.")
    api_keys_file: Path | None = Field(None, description="The same, one per line, in a file that only you can read (mode 0600).")
    insecure: bool = Field(False, description="Allow an address other than loopback without keys.")
    allowed_hosts: Names = Field((), description="Host names let in beside loopback and `host` (a guard against DNS rebinding).")
    allowed_origins: Names = Field((), description="Web origins let in, as `http://localhost:3000`. Empty: no web page.")
    max_body_bytes: Size = Field(64 * 10**6, description="Largest request body.", validate_default=True)
    body_timeout_s: Seconds = Field(60.0, description="A request body must have arrived within this time.")


class ModelSettings(Section):
    """What is served."""

    path: str = Field("tiny", description='A folder, a Hugging Face id, or "tiny" for the embedded random-weights model.')
    served_name: str | None = Field(None, description="Name that clients see. Default: the last part of `path`.")
    aliases: Names = Field((), description="Other names that clients may use for it.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face id.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")


class UpstreamSettings(Section):
    """The child: the unmodified mlx_lm.server behind the proxy. "auto" leaves a flag to the plan."""

    command: Names = Field((), description="Command that runs the server, as a list. Empty: this environment's mlx_lm.server.")
    args: tuple[str, ...] = Field((), description='Further flags for it, as ["--temp", "0.7"].')
    telemetry: Literal["on", "off"] = Field("on", description='"off" runs the server\'s own command, without memory telemetry from inside.')
    prefill_step_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="Tokens per prefill step.")
    decode_concurrency: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="Requests that decode together.")
    prompt_concurrency: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="Requests that prefill together.")
    prompt_cache_bytes: AutoSize = Field("auto", description="Bytes that the server's prompt cache may keep.")
    prompt_cache_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="Sequences that the prompt cache may keep.")
    mlx_cache_limit: AutoSize = Field("auto", description="Bytes of freed memory that MLX may keep for reuse.")


class PromptSettings(Section):
    """What a prompt may be."""

    max_prompt_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description='Longest prompt. "auto": the model\'s context length.')
    compaction_headroom_tokens: int = Field(0, ge=0, description="Room above the limit for one request of a refused conversation (its compaction).")
    prompt_overflow_policy: Literal["error", "truncate"] = Field("error", description="A longer prompt is refused, or loses its oldest turns.")
    prompt_keep_tokens: int = Field(0, ge=0, description="With truncate: tokens at the start to keep, rounded up to whole messages.")
    default_max_tokens: int = Field(4096, ge=1, description="max_tokens for requests that name none (the server's own default is 512).")
    max_kv_size: int | None = Field(None, ge=1, description="Rows (prompt + completion) that one request can ever hold.")
    trim_tool_output: bool = Field(False, description="With truncate: also shorten the largest old tool results.")


class MemorySettings(Section):
    """What memory may be used. "auto" leaves a limit to the plan."""

    max_active_memory_bytes: AutoSize = Field("auto", description='All memory of the child, as "24GB" or 0.75 of RAM.')
    max_active_kv_bytes: AutoSize = Field("auto", description="KV cache of all running requests together.")
    reserve_system_bytes: AutoSize = Field("auto", description="Memory left to the system and other programs.")


class QueueSettings(Section):
    """How requests wait."""

    max_waiting: int = Field(64, ge=0, description="Requests that may wait; one more gets 503.")
    max_wait_s: Seconds = Field(600.0, description="A request waits (and is held over restarts) at most this long.")
    fairness: Literal["key", "none"] = Field("key", description="Take turns between API keys, or serve by arrival alone.")
    hold_grace_s: Seconds = Field(2.0, description="A stream that waits longer gets its 200 and keep-alives from then on.")
    keepalive_s: Annotated[float, Field(gt=0)] = Field(5.0, description="A comment is sent on a silent stream this often.")


class SupervisorSettings(Section):
    """How the child is watched and restarted."""

    state_dir: Path | None = Field(None, description="Folder for the lock, crash reports and learned limits. Default: by platform.")
    start_timeout_s: Seconds = Field(600.0, description="The child must have produced a token within this time of its start.")
    stall_s: Seconds = Field(60.0, description="A busy child that shows no progress for this long is tested, then restarted.")
    canary_timeout_s: Seconds = Field(10.0, description="A test request must be answered within this time.")
    max_restarts: int = Field(5, ge=0, description="More crashes than this within restart_window_s, and restarting stops.")
    restart_window_s: Seconds = Field(300.0, description="The window of max_restarts.")
    backoff_base_s: Seconds = Field(0.5, description="Longest first wait before a restart that is not the first of its window; doubles each time.")
    backoff_max_s: Seconds = Field(30.0, description="Longest wait before a restart.")
    cooldown_s: Seconds = Field(600.0, description="A child given up for is tried again after this long.")
    drain_s: Seconds = Field(30.0, description="At a stop, running requests may finish within this time.")
    sigint_grace_s: Seconds = Field(10.0, description="Then SIGINT, and this long to go.")
    sigterm_grace_s: Seconds = Field(5.0, description="Then SIGTERM, and this long before SIGKILL.")


class LogSettings(Section):
    """What is written where."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level that is written.")
    format: Literal["auto", "human", "json"] = Field("auto", description='"auto": human on a terminal, JSON elsewhere.')
    file: Path | None = Field(None, description="Also append to this file, as JSON.")


class Settings(Section):
    """The whole of proxy.toml; attribute names are the table names."""

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    prompt: PromptSettings = PromptSettings()
    memory: MemorySettings = MemorySettings()
    queue: QueueSettings = QueueSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    log: LogSettings = LogSettings()
