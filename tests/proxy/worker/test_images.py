"""With a stand-in for the server; that the counts are its own is shown in tests/real/test_pictures.py."""

from __future__ import annotations

import base64
import importlib.util
import io
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from proxy.worker.images import BadImage, ServerImages


def image_url(width: int, height: int, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


class Processor:
    """One token for each pixel of the width."""

    image_token = "<p>"

    def __call__(self, text: str, *, images: list[Any]) -> tuple[str, list[Any]]:
        return text.replace("<p>", f"[{'<p>' * images[0].width}]"), images


def server(processor: Any = Processor) -> tuple[SimpleNamespace, list[str]]:
    decoded: list[str] = []

    def decode(url: str) -> Any:
        decoded.append(url)
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        image.load()
        return image

    def load_processor(model: Any, config: dict[str, Any]) -> Any:
        module = type(model).__module__.rsplit(".", 1)[-1]
        return processor() if config.get("vision_config") and module == "seeing" else None

    return SimpleNamespace(load_processor=load_processor, _decode_image=decode), decoded


SEEING = {"model_type": "seeing", "vision_config": {"patch_size": 14}}


def server_images(most_pixels: int = 1000) -> tuple[ServerImages, list[str]]:
    module, decoded = server()
    return ServerImages(module, SEEING, most_pixels), decoded


def test_each_image_is_expanded_in_its_place_and_decoded_once() -> None:
    child, decoded = server_images()
    urls = [image_url(2, 5), image_url(1, 5)]
    for _ in range(2):
        assert child.expand("a<p>b<p>c", urls) == "a[<p><p>]b[<p>]c"
    assert decoded == urls


def test_as_many_places_as_images() -> None:
    child, decoded = server_images()
    for text in ("a", "a<p><p>"):
        with pytest.raises(BadImage, match="no place"):
            child.expand(text, [image_url(2, 5)])
    assert decoded == []


def test_too_many_pixels_are_refused_before_anything_is_decoded() -> None:
    child, decoded = server_images(most_pixels=100)
    assert child.expand("<p>", [image_url(10, 10)])
    decoded.clear()
    for urls in ([image_url(10, 11)], [image_url(10, 5), image_url(10, 6)]):
        with pytest.raises(BadImage, match="pixels"):
            child.expand("<p>" * len(urls), urls)
    assert decoded == []


def test_a_bomb_says_how_large_it_is() -> None:
    """A file of some kilobytes that would be gigabytes of pixels."""
    child, decoded = server_images(most_pixels=50_000_000)
    data = base64.b64decode(image_url(1, 1).partition(",")[2])
    huge = data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:]
    with pytest.raises(BadImage):
        child.expand("<p>", [f"data:image/png;base64,{base64.b64encode(huge).decode()}"])
    assert decoded == []


@pytest.mark.parametrize(
    "data",
    [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)
def test_broken_files_are_refused_without_their_words(data: bytes) -> None:
    child, _ = server_images()
    with pytest.raises(BadImage, match="An image cannot be read"):
        child.expand("<p>", [f"data:image/png;base64,{base64.b64encode(data).decode()}"])


def test_a_cut_file_is_refused() -> None:
    child, _ = server_images()
    whole = base64.b64decode(image_url(9, 9).partition(",")[2])
    with pytest.raises(BadImage, match="An image cannot be read"):
        child.expand("<p>", [f"data:image/png;base64,{base64.b64encode(whole[:45]).decode()}"])


@pytest.mark.parametrize(
    ("config", "template", "pillow", "obstacle"),
    [
        (SEEING, True, True, None),
        (SEEING, False, True, "takes no images"),
        (SEEING, True, False, "Pillow is not installed"),
        ({"model_type": "seeing"}, True, True, "takes no images"),
        ({**SEEING, "model_type": "blind"}, True, True, "takes no images"),
        ({**SEEING, "model_file": "own.py"}, True, True, "takes no images"),
    ],
)
def test_whether_images_can_be_taken(
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    template: bool,
    pillow: bool,
    obstacle: str | None,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name) if pillow else None)
    said = ServerImages(server()[0], config, 1).obstacle(has_chat_template=template)
    assert said is None if obstacle is None else obstacle in (said or "")


def test_an_older_server_knows_of_no_images() -> None:
    assert ServerImages(SimpleNamespace(), SEEING, 1).obstacle(has_chat_template=True) is not None
