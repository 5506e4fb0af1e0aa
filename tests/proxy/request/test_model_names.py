from __future__ import annotations

import pytest

from proxy.errors import ModelNotFound
from proxy.request.model_names import ModelNames, served_name

NAMES = ModelNames("Qwen3-4B-4bit", ("mlx-community/Qwen3-4B-4bit", "coder"))


@pytest.mark.parametrize(
    ("path", "name"),
    [("tiny", "tiny"), ("mlx-community/Qwen3-4B-4bit", "Qwen3-4B-4bit"), ("/models/a/", "a"), ("~/m", "m")],
)
def test_served_name_is_the_last_part(path: str, name: str) -> None:
    assert served_name(path) == name


@pytest.mark.parametrize(
    "name",
    [
        None,
        "Qwen3-4B-4bit",
        "qwen3-4b-4BIT",
        "mlx-community/Qwen3-4B-4bit",
        "coder",
        "default_model",
        "openai/coder",
        "openai/mlx-community/Qwen3-4B-4bit",
        "litellm/openai/coder",
    ],
)
def test_known_spellings_are_accepted(name: str | None) -> None:
    NAMES.check(name)


@pytest.mark.parametrize("name", ["gpt-4", "", "other/coder", "coder/openai", "openai/", "openai/gpt-4"])
def test_another_model_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        NAMES.check(name)
    assert caught.value.status == 404
    assert caught.value.param == "model"


def test_the_name_is_not_repeated() -> None:
    """Agents look for numbers in texts, and a stranger's name may have `503` in it."""
    with pytest.raises(ModelNotFound) as caught:
        NAMES.check("model-503")
    assert "503" not in caught.value.message
