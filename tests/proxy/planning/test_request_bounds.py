from __future__ import annotations

from pathlib import Path

from proxy.config.settings import RequestSettings
from proxy.planning.request_bounds import bounds, picture_policy
from proxy.prompt.counter import TokenizerInfo

INFO = TokenizerInfo(
    vocab_size=100,
    context_length=None,
    has_chat_template=True,
    has_tool_calling=False,
    has_thinking=False,
    image_obstacle=None,
)


def test_settings_become_what_requests_are_checked_against() -> None:
    settings = RequestSettings(
        adapters=("a",),
        draft_models=("d",),
        role_mapping=True,
        template_arguments=("persona=x|y",),
        max_images=3,
        max_image_bytes=1000,
        image_hosts=("pics.example",),
    )
    checked_by = bounds(settings, INFO, Path("/models/m"))
    assert checked_by.vocab_size == 100
    assert checked_by.allowlist.model == "/models/m"
    assert checked_by.allowlist.adapters == {"a"}
    assert checked_by.allowlist.draft_models == {"d"}
    assert checked_by.allowlist.arguments["persona"] == {"x", "y"}
    assert checked_by.allowlist.arguments["enable_thinking"] is None
    policy = checked_by.images
    assert (policy.most, policy.most_bytes, policy.hosts) == (3, 1000, {"pics.example"})
    assert policy.obstacle is None


def test_no_images_are_taken_where_none_are_wanted_or_seen() -> None:
    assert picture_policy(RequestSettings(), "blind").obstacle == "blind"
    assert picture_policy(RequestSettings(max_images=0)).obstacle == "this server is set to take no images"
