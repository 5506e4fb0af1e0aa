"""What a client is told where the model's tokenizer or its chat template refuses a prompt."""

from __future__ import annotations

import re

from proxy.core.chat import ChatPrompt, Prompt
from proxy.errors import InvalidRequest, Unavailable
from proxy.worker import Refused

#: Agents match on digits of statuses in error texts; a template author's text may have any.
_DIGITS = re.compile(r"\d+")
_LONGEST_REASON = 200


def translated(refusal: Refused, prompt: Prompt) -> Exception:
    """The error to answer with. Only a template's own words pass: other exceptions may quote the prompt."""
    if refusal.kind == "MemoryError":
        return Unavailable("tokenizer_memory")
    reason = "The model's tokenizer does not accept it."
    if refusal.kind == "BadPicture":
        reason = str(refusal)
    elif refusal.kind == "TemplateError":
        reason = "The model's chat template says: " + _DIGITS.sub("N", str(refusal))[:_LONGEST_REASON]
    elif isinstance(prompt, ChatPrompt):
        reason = "The model's chat template does not accept this conversation."
    return InvalidRequest(reason, param="messages" if isinstance(prompt, ChatPrompt) else "prompt")
