"""Pure. Which model names a client may use for the one model that is served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.errors import ModelNotFound

#: Prefixes that agents put before a model name to choose a client library (LiteLLM, aider, Continue).
PROVIDER_PREFIXES = ("openai", "mlx", "local", "custom", "litellm", "openai-compatible", "hosted_vllm")

#: The server's own name for the model given by --model (mlx_lm/server.py, ModelProvider). Every request is
#: forwarded with it, because any other string would make the server load another model.
CHILD_MODEL = "default_model"


def served_name(path: str) -> str:
    """The last part of a path or hub id: `mlx-community/Qwen3-4B-4bit` is served as `Qwen3-4B-4bit`."""
    return path.rstrip("/").rsplit("/", 1)[-1] or path


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The served name and its aliases, with the variants that clients send.

    `served`: the name in responses. `aliases`: other names, including the model's full path or hub id.
    """

    served: str
    aliases: tuple[str, ...] = ()
    _known: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names: Iterable[str] = (self.served, *self.aliases, CHILD_MODEL)
        object.__setattr__(self, "_known", frozenset(name.casefold() for name in names))

    def check(self, name: str | None) -> None:
        """Accept no name, a known one in any case, or a known one behind a provider prefix.

        Raises:
            ModelNotFound: for any other name. The child would drop its model to load that one.
        """
        if name is None or self._is_known(name.casefold()):
            return
        raise ModelNotFound(self.served)

    def _is_known(self, name: str) -> bool:
        if name in self._known:
            return True
        prefix, slash, rest = name.partition("/")
        return bool(slash) and prefix in PROVIDER_PREFIXES and self._is_known(rest)
