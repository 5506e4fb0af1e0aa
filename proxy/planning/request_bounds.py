"""What requests are checked against: the [request] settings, and what the model's tokenizer knows."""

from __future__ import annotations

from pathlib import Path

from proxy.config.settings import RequestSettings
from proxy.prompt.counter import TokenizerInfo
from proxy.request.allowlist import Allowlist, template_arguments
from proxy.request.completion import Bounds
from proxy.request.images import ImagePolicy


def bounds(settings: RequestSettings, tokenizer: TokenizerInfo, folder: Path) -> Bounds:
    """`folder`: the model's, as it is named on the child's command line."""
    return Bounds(
        vocab_size=tokenizer.vocab_size,
        allowlist=Allowlist(
            adapters=frozenset(settings.adapters),
            draft_models=frozenset(settings.draft_models),
            role_mapping=settings.role_mapping,
            arguments=template_arguments(settings.template_arguments),
            model=str(folder),
        ),
        images=picture_policy(settings, tokenizer.image_obstacle),
    )


def picture_policy(settings: RequestSettings, obstacle: str | None = None) -> ImagePolicy:
    """`obstacle`: why the model takes no images, if it does not."""
    if not settings.max_images:
        obstacle = "this server is set to take no images"
    return ImagePolicy(
        most=settings.max_images,
        most_bytes=settings.max_image_bytes,
        hosts=frozenset(settings.image_hosts),
        obstacle=obstacle,
    )
