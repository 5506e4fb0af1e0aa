"""Pure. The typed completion request that every later step works on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from proxy.request import sampling
from proxy.request.adapt import adapt, adapt_tools
from proxy.request.allowlist import Allowlist
from proxy.request.images import ImagePolicy, RemoteImage, image_part
from proxy.request.mends import Mends
from proxy.request.messages import Message
from proxy.request.model_names import CHILD_MODEL
from proxy.request.structured import WantedOutput
from proxy.request.template_traits import TemplateTraits

#: The session of a text prompt is told by this many characters at its start.
_SESSION_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation and what else the chat template is given."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    role_mapping: dict[str, str] | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of the child's request body that determine the prompt."""
        body: dict[str, Any] = {"messages": self.messages}
        if self.tools:
            body["tools"] = self.tools
        if self.template_kwargs:
            body["chat_template_kwargs"] = self.template_kwargs
        if self.role_mapping:
            body["role_mapping"] = self.role_mapping
        return body


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A prompt of the completions API, to which no template applies."""

    text: str

    def fields(self) -> dict[str, Any]:
        """The fields of the child's request body that determine the prompt."""
        return {"prompt": self.text}


Prompt = ChatPrompt | TextPrompt


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the checks need to know about the model.

    `vocab_size` is the number of logits per token. While it is None, `CompletionRequest.bounded` must be
    called before the request goes to the child. `sampling`: the model's own, where a request names none.
    `structured_output`: the setting of this name.
    """

    vocab_size: int | None = None
    allowlist: Allowlist = field(default_factory=Allowlist)
    images: ImagePolicy = field(default_factory=ImagePolicy)
    template: TemplateTraits = field(default_factory=TemplateTraits)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    structured_output: str = "retry"


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request after parsing.

    Attributes:
        sampling: sampling fields, forwarded as they are.
        from_model: names of sampling fields that the client did not send.
        dropped: names of the client's fields that were left out.
        variant: the fields that choose an adapter or a draft model.
        remote: images that must be fetched before the request goes to the child.
        named_session: the session that the client names in a header; "" if it names none.
        mends: what was mended in it so far.
        wanted: the form that its answer must have; the prompt tells the model.
    """

    prompt: Prompt
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    max_tokens: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    from_model: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    variant: dict[str, str] = field(default_factory=dict)
    remote: tuple[RemoteImage, ...] = ()
    named_session: str = ""
    mends: Mends = field(default_factory=Mends)
    wanted: WantedOutput | None = None

    @property
    def is_chat(self) -> bool:
        return isinstance(self.prompt, ChatPrompt)

    @property
    def prompt_field(self) -> str:
        """The field of the client's body that has the prompt."""
        return "messages" if self.is_chat else "prompt"

    def bounded(self, vocab_size: int) -> CompletionRequest:
        """Check and adapt the request to a vocabulary of `vocab_size` logits. Raises InvalidRequest."""
        return replace(self, sampling=sampling.bounded(self.sampling, vocab_size))

    def adapted(self, template: TemplateTraits) -> CompletionRequest:
        """The request with its conversation in a form that the model's chat template takes."""
        if not isinstance(self.prompt, ChatPrompt):
            return self
        messages = adapt(self.prompt.messages, template, self.mends)
        tools = adapt_tools(self.prompt.tools, template, self.mends)
        return replace(self, prompt=replace(self.prompt, messages=messages, tools=tools))

    def resampled(self) -> CompletionRequest:
        """The request for another answer than it had: without a seed, and not greedy."""
        return replace(self, sampling=sampling.resampled(self.sampling))

    def with_images(self, urls: Sequence[str]) -> CompletionRequest:
        """Replace the remote image URLs by `data:` URLs, given in the order of `remote`."""
        assert isinstance(self.prompt, ChatPrompt), "only messages have images"
        messages = list(self.prompt.messages)
        for remote, url in zip(self.remote, urls, strict=True):
            message = messages[remote.message]
            content = [*message["content"]]
            content[remote.part] = image_part(url)
            messages[remote.message] = {**message, "content": content}
        return replace(self, prompt=replace(self.prompt, messages=tuple(messages)), remote=())

    def upstream_body(self, *, prompt: Prompt, max_tokens: int, stream: bool) -> bytes:
        """The JSON body for the child, with `prompt` and `max_tokens` as fitted, streamed or not.

        Raises nothing: every part was checked, and orjson can serialize whatever it has parsed.
        """
        body = {
            "model": CHILD_MODEL,
            **prompt.fields(),
            **self.sampling,
            **self.variant,
            "max_tokens": max_tokens,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        if self.logprobs:
            body["logprobs"] = True
        return orjson.dumps(body)

    def session(self) -> str:
        """The session that the request belongs to, as 16 hex digits that stay the same as it grows.

        It goes by what the user said first, and by the session that the client names, if any.
        """
        if isinstance(self.prompt, TextPrompt):
            first = self.prompt.text[:_SESSION_CHARACTERS].encode()
        else:
            said = (message for message in self.prompt.messages if message["role"] == "user")
            first = orjson.dumps(next(said, self.prompt.messages[0]))
        digest = hashlib.sha256(first)
        digest.update(self.named_session.encode())
        return digest.hexdigest()[:16]

    def fingerprint(self) -> str:
        """16 hex digits that are equal for requests with the same prompt and sampling, however spelled."""
        canonical = {**self.prompt.fields(), **self.sampling, **self.variant, "logprobs": self.logprobs}
        return hashlib.sha256(orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
