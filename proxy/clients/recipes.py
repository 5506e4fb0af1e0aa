"""Pure. What each client must be told of this proxy, in the variables and files that it really reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.clients.config_file import ConfigFile

#: What is sent as a key where the proxy asks for none: most clients refuse to start without one.
ANY_KEY = "any"

#: The name of the proxy as a provider in the files of clients.
_PROVIDER = "mlx"

#: Variable that holds the key for clients whose file names a variable instead of a key.
_KEY_VARIABLE = "MLX_API_KEY"

#: Claude Code keeps 13,000 tokens and its output free, and its instructions and tools take about 12,000
#: before the first word, so below this limit (in tokens) it compacts at almost every turn.
_CLAUDE_CODE_WINDOW = 48_000

#: By how much a compaction may be longer than the prompt that was refused, in tokens: some 6 KB were seen
#: with Claude Code, and 4 KB with Qwen Code.
_COMPACTION_HEADROOM = 2048


@dataclass(frozen=True, slots=True)
class ProxyDetails:
    """What there is to be told.

    `url`: the proxy's address, without `/v1`. `key`: None if it asks for none. `window`: the longest prompt
    that it lets through, in tokens. `output`: max_tokens for one answer. `headroom`: as
    `prompt.compaction_headroom_tokens`.
    """

    url: str
    model: str
    window: int
    output: int
    key: str | None = None
    headroom: int = 0

    @property
    def base_url(self) -> str:
        """The address that clients of OpenAI's API want."""
        return f"{self.url}/v1"

    @property
    def any_key(self) -> str:
        """A key in any case."""
        return self.key or ANY_KEY


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """How to start a client that needs no file; `environ` is added to the environment, `unset` is removed."""

    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """The configuration of one client.

    `files`: what it reads. `environ`: variables that it needs besides, or instead where `either` is set.
    `start`: the command once that is in place; empty for a library. `launch`: how to start it without its
    files, or None if it must have them. `steps`: what can only be entered by hand. `notes`: what to know.
    """

    files: tuple[ConfigFile, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    either: bool = False
    start: tuple[str, ...] = ()
    launch: LaunchCommand | None = None
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _claude_code(to: ProxyDetails) -> Recipe:
    environ = {
        "ANTHROPIC_BASE_URL": to.url,
        "ANTHROPIC_AUTH_TOKEN": to.any_key,
        "ANTHROPIC_MODEL": to.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": to.model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(to.window),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(to.output),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    # Variables in its settings.json win over those of its environment; those in --settings win over both.
    public = {name: value for name, value in environ.items() if value != to.key}
    notes = list(_headroom(to))
    if to.window < _CLAUDE_CODE_WINDOW:
        notes.append(
            f"{to.window} tokens are little for it: below {_CLAUDE_CODE_WINDOW} it compacts all the time."
        )
    return Recipe(
        files=(ConfigFile(("$CLAUDE_CONFIG_DIR", "~/.claude"), ("settings.json",), {"env": environ}),),
        environ=environ,
        either=True,
        start=("claude",),
        launch=LaunchCommand(
            ("claude", "--settings", json.dumps({"env": public})), environ, unset=("ANTHROPIC_API_KEY",)
        ),
        notes=tuple(notes),
    )


def _codex(to: ProxyDetails) -> Recipe:
    provider = {"name": _PROVIDER, "base_url": to.base_url, "wire_api": "responses"}
    with_token = provider | ({"experimental_bearer_token": to.key} if to.key else {})
    with_variable = provider | ({"env_key": _KEY_VARIABLE} if to.key else {})
    top = {"model": to.model, "model_provider": _PROVIDER, "model_context_window": to.window}
    # Options are seen by everybody who lists processes, so the key goes into a variable.
    options = {
        **top,
        **{f"model_providers.{_PROVIDER}.{name}": value for name, value in with_variable.items()},
    }
    words = [word for name, value in options.items() for word in ("-c", f"{name}={json.dumps(value)}")]
    return Recipe(
        files=(
            ConfigFile(
                ("$CODEX_HOME", "~/.codex"),
                ("config.toml",),
                {**top, "model_providers": {_PROVIDER: with_token}},
            ),
        ),
        start=("codex",),
        launch=LaunchCommand(("codex", *words), {_KEY_VARIABLE: to.key} if to.key else {}),
        notes=(
            "It compacts at 90 % of model_context_window, so do not set that higher than the proxy's limit.",
        ),
    )


def _opencode(to: ProxyDetails) -> Recipe:
    values = {
        "model": f"{_PROVIDER}/{to.model}",
        "provider": {
            _PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": _PROVIDER,
                "options": {"baseURL": to.base_url, "apiKey": to.any_key},
                "models": {to.model: {"limit": {"context": to.window, "output": to.output}}},
            }
        },
    }
    return Recipe(
        files=(
            ConfigFile(
                ("$XDG_CONFIG_HOME/opencode", "~/.config/opencode"),
                ("opencode.json", "opencode.jsonc"),
                values,
            ),
        ),
        start=("opencode",),
        launch=LaunchCommand(("opencode",), {"OPENCODE_CONFIG_CONTENT": json.dumps(values)}),
    )


def _pi(to: ProxyDetails) -> Recipe:
    model = {"id": to.model, "contextWindow": to.window, "maxTokens": to.output}
    provider = {
        "baseUrl": to.base_url,
        "api": "openai-completions",
        "apiKey": to.any_key,
        "models": [model],
    }
    return Recipe(
        files=(
            ConfigFile(
                ("$PI_CODING_AGENT_DIR", "~/.pi/agent"),
                ("models.json",),
                {"providers": {_PROVIDER: provider}},
            ),
        ),
        start=("pi", "--provider", _PROVIDER, "--model", to.model),
    )


def _qwen_code(to: ProxyDetails) -> Recipe:
    model = {
        "id": to.model,
        "name": _PROVIDER,
        "baseUrl": to.base_url,
        "envKey": _KEY_VARIABLE,
        "generationConfig": {"contextWindowSize": to.window, "samplingParams": {"max_tokens": to.output}},
    }
    values = {
        "modelProviders": {"openai": [model]},
        "env": {_KEY_VARIABLE: to.any_key},
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": to.model},
    }
    return Recipe(
        files=(ConfigFile(("$QWEN_HOME", "~/.qwen"), ("settings.json",), values),),
        start=("qwen",),
        notes=tuple(_headroom(to)),
    )


def _aider(to: ProxyDetails) -> Recipe:
    """As its documentation says: https://aider.chat/docs/config/adv-model-settings.html."""
    model = f"openai/{to.model}"
    limits = {
        "max_input_tokens": to.window,
        "max_output_tokens": to.output,
        "max_tokens": to.output,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    values = {"model": model, "openai-api-base": to.base_url, "openai-api-key": to.any_key}
    return Recipe(
        files=(
            ConfigFile(("~",), (".aider.conf.yml",), values),
            ConfigFile(("~",), (".aider.model.metadata.json",), {model: limits}),
        ),
        start=("aider",),
        notes=("It takes an answer that was cut off for a whole one.",),
    )


def _llm(to: ProxyDetails) -> Recipe:
    entry: dict[str, Any] = {"model_id": to.model, "model_name": to.model, "api_base": to.base_url}
    entry |= {"supports_tools": True} | ({"api_key_name": _PROVIDER} if to.key else {})
    folders = (
        "$LLM_USER_PATH",
        "macos:~/Library/Application Support/io.datasette.llm",
        "$XDG_CONFIG_HOME/io.datasette.llm",
        "~/.config/io.datasette.llm",
    )
    keys = (ConfigFile(folders, ("keys.json",), {_PROVIDER: to.key}),) if to.key else ()
    return Recipe(
        files=(ConfigFile(folders, ("extra-openai-models.yaml",), [entry]), *keys),
        start=("llm", "-m", to.model),
        notes=("It takes an answer that was cut off for a whole one.",),
    )


def _cline(to: ProxyDetails) -> Recipe:
    kind = "openai-compatible"
    entry = {
        "settings": {"provider": kind, "apiKey": to.any_key, "model": to.model, "baseUrl": to.base_url},
        "updatedAt": "2026-01-01T00:00:00.000Z",  # as its own `cline auth` writes; any time will do
        "tokenSource": "manual",
    }
    values = {"lastUsedProvider": kind, "providers": {kind: entry}}
    return Recipe(
        files=(ConfigFile(("~/.cline/data/settings",), ("providers.json",), values, {"version": 1}),),
        start=("cline",),
        steps=(
            "In the editor's extension, in its settings:",
            "  API Provider       OpenAI Compatible",
            f"  Base URL           {to.base_url}",
            f"  API Key            {to.any_key}",
            f"  Model ID           {to.model}",
            f"  Context Window     {to.window}",
            f"  Max Output Tokens  {to.output}",
        ),
    )


def _continue(to: ProxyDetails) -> Recipe:
    """As its documentation says: https://docs.continue.dev/reference."""
    model = {
        "name": f"{to.model} ({_PROVIDER})",
        "provider": "openai",
        "model": to.model,
        "apiBase": to.base_url,
        "apiKey": to.any_key,
        "capabilities": ["tool_use"],
        "defaultCompletionOptions": {"contextLength": to.window, "maxTokens": to.output},
    }
    defaults = {"name": "Local", "version": "1.0.0", "schema": "v1"}
    return Recipe(
        files=(
            ConfigFile(
                ("$CONTINUE_GLOBAL_DIR", "~/.continue"), ("config.yaml",), {"models": [model]}, defaults
            ),
        ),
        start=("cn",),
        notes=("It takes an answer that was cut off for a whole one.",),
    )


def _zed(to: ProxyDetails) -> Recipe:
    """As its documentation says: https://zed.dev/docs/ai/use-api-access. The key must be in a variable."""
    model = {
        "name": to.model,
        "display_name": to.model,
        "max_tokens": to.window,
        "max_output_tokens": to.output,
        "capabilities": {
            "tools": True,
            "images": False,
            "parallel_tool_calls": True,
            "prompt_cache_key": False,
        },
    }
    provider = {"api_url": to.base_url, "available_models": [model]}
    values = {
        "language_models": {"openai_compatible": {_PROVIDER: provider}},
        "agent": {"default_model": {"provider": _PROVIDER, "model": to.model}},
    }
    return Recipe(
        files=(ConfigFile(("~/.config/zed",), ("settings.json",), values),),
        environ={_KEY_VARIABLE: to.any_key},
        start=("zed",),
    )


def _openai(to: ProxyDetails) -> Recipe:
    environ = {"OPENAI_BASE_URL": to.base_url, "OPENAI_API_KEY": to.any_key}
    return Recipe(
        environ=environ,
        launch=LaunchCommand((), environ),
        notes=(
            f'In Python: OpenAI(base_url="{to.base_url}", api_key=...), model="{to.model}".',
            f"Prompts may have {to.window} tokens; ask for at most {to.output} (max_tokens).",
        ),
    )


def _anthropic(to: ProxyDetails) -> Recipe:
    environ = {"ANTHROPIC_BASE_URL": to.url, "ANTHROPIC_AUTH_TOKEN": to.any_key}
    return Recipe(
        environ=environ,
        launch=LaunchCommand((), environ, unset=("ANTHROPIC_API_KEY",)),
        notes=(
            f'In Python: Anthropic(base_url="{to.url}", auth_token=...), model="{to.model}".',
            f"Prompts may have {to.window} tokens; ask for at most {to.output} (max_tokens).",
        ),
    )


def _headroom(to: ProxyDetails) -> tuple[str, ...]:
    if to.headroom >= _COMPACTION_HEADROOM:
        return ()
    return (
        "Its compaction can be longer than the prompt that was refused: "
        f"set prompt.compaction_headroom_tokens = {_COMPACTION_HEADROOM} in proxy.toml.",
    )


#: Name of a client -> its title and its recipe.
RECIPES: Mapping[str, tuple[str, Callable[[ProxyDetails], Recipe]]] = {
    "claude-code": ("Claude Code", _claude_code),
    "codex": ("Codex", _codex),
    "opencode": ("OpenCode", _opencode),
    "pi": ("pi", _pi),
    "qwen-code": ("Qwen Code", _qwen_code),
    "aider": ("aider", _aider),
    "llm": ("llm", _llm),
    "cline": ("Cline", _cline),
    "continue": ("Continue", _continue),
    "zed": ("Zed", _zed),
    "openai": ("OpenAI SDKs", _openai),
    "anthropic": ("Anthropic SDKs", _anthropic),
}


def recipe(name: str, to: ProxyDetails) -> Recipe:
    """The configuration of a client in `RECIPES`."""
    return RECIPES[name][1](to)
