"""Pure. Sampling fields: every one that the server has, with the range in which the server survives it.

Sources: `APIHandler.validate_model_parameters` and `sample_utils.py` of mlx-lm 0.32.2. The server runs the
sampler outside any try of its generation thread; values that it accepts and then dies of are normalized or
refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from proxy.request.fields import boolean, integer, mapping, number, refuse, string

#: Below this temperature the sampler divides by (nearly) zero; it is taken as greedy decoding.
_LOWEST_TEMPERATURE = 1e-3
#: Below this top_p or min_p the sampler keeps no token; it is raised to this value, which keeps one.
_LOWEST_SHARE = 1e-6
#: Most tokens that a penalty looks back on; more than any context, far below where array slices overflow.
_LONGEST_LOOKBACK = 2**20
#: Most stop strings, and characters in all of them: the server builds an automaton over their characters and
#: caches a hundred of those.
_MOST_STOPS, _STOP_CHARACTERS = 64, 4096
#: The temperature of an answer that is asked for again because of what greedy decoding gave.
_RESAMPLING_TEMPERATURE = 0.7
_TOKEN_ID = re.compile(r"[0-9]{1,9}\Z", re.ASCII)


def _temperature(value: Any, param: str) -> float:
    temperature = number(value, param, 0, 100)
    return temperature if temperature >= _LOWEST_TEMPERATURE else 0.0


def _share_or_off(value: Any, param: str) -> float:
    share = number(value, param, 0, 1)
    return share if share == 0 else max(share, _LOWEST_SHARE)


def _top_k(value: Any, param: str) -> int | None:
    count = integer(value, param, -1, 2**63)
    return count if count > 0 else None  # -1 and 0 both mean "off" (vLLM, llama.cpp)


def _repetition_penalty(value: Any, param: str) -> float:
    factor = number(value, param, 0, 100)
    if 0 < factor < 0.01:
        refuse(param, "must be 0 (off) or from 0.01 to 100")
    return factor


def _lookback(value: Any, param: str) -> int:
    return min(integer(value, param, 0, 2**63), _LONGEST_LOOKBACK)


def _seed(value: Any, param: str) -> int | None:
    """mx.random.seed takes an unsigned 64-bit number; a negative seed is sent as the same bits.

    -1 means "random" to llama.cpp and its clients. It is dropped, since any seed keeps a request out of the
    batch.
    """
    seed = integer(value, param, -(2**63), 2**64 - 1)
    return None if seed == -1 else seed % 2**64


def _stop(value: Any, param: str) -> list[str] | None:
    words = [value] if type(value) is str else value
    if type(words) is not list:
        refuse(param, "must be a string or a list of strings")
    if len(words) > _MOST_STOPS:
        refuse(param, f"must have at most {_MOST_STOPS} strings")
    checked = [string(word, f"{param}[{index}]", _STOP_CHARACTERS) for index, word in enumerate(words)]
    if sum(map(len, checked)) > _STOP_CHARACTERS:
        refuse(param, f"must have at most {_STOP_CHARACTERS} characters together")
    return [word for word in dict.fromkeys(checked) if word] or None


def _logit_bias(value: Any, param: str) -> dict[str, float] | None:
    biases: dict[str, float] = {}
    for token, bias in mapping(value, param).items():
        if not _TOKEN_ID.match(token):
            refuse(param, "must have token ids as its keys")
        biases[str(int(token))] = number(bias, f"{param}.{int(token)}", -100, 100)
    return biases or None


_penalty, _share = partial(number, low=-100, high=100), partial(number, low=0, high=1)
_FIELDS: Mapping[str, Callable[[Any, str], Any]] = {
    "temperature": _temperature,
    "top_p": _share_or_off,
    "top_k": _top_k,
    "min_p": _share_or_off,
    "repetition_penalty": _repetition_penalty,
    "repetition_context_size": _lookback,
    "presence_penalty": _penalty,
    "presence_context_size": _lookback,
    "frequency_penalty": _penalty,
    "frequency_context_size": _lookback,
    "xtc_probability": _share,
    "xtc_threshold": _share,
    "logit_bias": _logit_bias,
    "seed": _seed,
    "stop": _stop,
}
NAMES = frozenset(_FIELDS)


def parse(body: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling fields of a request, in the form that is safe for the server. Raises InvalidRequest."""
    fields = {
        name: checked
        for name, check in _FIELDS.items()
        if (value := body.get(name)) is not None and (checked := check(value, name)) is not None
    }
    if fields.get("xtc_threshold", 0.0) > 0.5:
        # No two tokens can both exceed one half, so XTC would do nothing; the sampler raises instead.
        fields.pop("xtc_threshold")
        fields.pop("xtc_probability", None)
    return fields


def bounded(fields: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The fields for a vocabulary of `vocab_size` logits. Raises InvalidRequest for a token id outside it.

    A top_k of the whole vocabulary restricts nothing and makes the sampler raise, so it is dropped.
    """
    if any(int(token) >= vocab_size for token in fields.get("logit_bias", ())):
        refuse("logit_bias", "must have ids of this model's vocabulary as its keys")
    return {name: value for name, value in fields.items() if name != "top_k" or value < vocab_size}


def resampled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields for another answer: without a seed, and with a temperature where decoding was greedy.

    Without a temperature in the request the server takes its own, which is 0 unless --temp says otherwise.
    """
    kept = {name: value for name, value in fields.items() if name != "seed" and (name, value) != ("top_k", 1)}
    return {**kept, "temperature": fields.get("temperature") or _RESAMPLING_TEMPERATURE}


def parse_logprobs(body: Mapping[str, Any], *, is_chat: bool) -> tuple[bool, int]:
    """Whether logprobs are asked for, and for how many alternatives (0 to 11, the server's maximum).

    In the old completions API `logprobs` is the number of alternatives. `top_logprobs` implies `logprobs`.
    """
    asked = body.get("logprobs")
    if not is_chat and type(asked) is int:
        return True, integer(asked, "logprobs", 0, 11)
    wanted = asked is not None and boolean(asked, "logprobs")
    top = body.get("top_logprobs")
    count = 0 if top is None else integer(top, "top_logprobs", -1, 11)
    return wanted or count > 0, max(count, 0)
