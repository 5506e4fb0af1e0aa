"""Images as the child sees them: whether the model accepts any, and how many tokens each of them has.

Images are decoded with the server's own code and expanded by the model's own processor. So the count is the
child's, and an unreadable image is refused before the child gets it. Expansions are cached, since agents send
an image again with every turn.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

#: Number of images whose expansion is cached; each is a text of some kilobytes.
_CACHED = 256
#: Formats that `proxy.request.images` accepts, under Pillow's names.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")


class BadImage(Exception):
    """An image cannot be used; the text says why, without repeating anything from the image."""


class ServerImages:
    """The images of one model's prompts.

    Args:
        server: the module mlx_lm.server.
        config: the model's config.json.
        most_pixels: most pixels of all images in one prompt.
    """

    def __init__(self, server: Any, config: Mapping[str, Any], most_pixels: int) -> None:
        self._server = server
        self._processor = _processor(server, config)
        self._most_pixels = most_pixels
        self._expanded: OrderedDict[bytes, str] = OrderedDict()

    def obstacle(self, *, has_chat_template: bool) -> str | None:
        """Why prompts cannot have images; None if they can."""
        if self._processor is None or not has_chat_template:
            return "this model takes no images"
        if importlib.util.find_spec("PIL") is None:
            return "the model server cannot read images, because Pillow is not installed"
        return None

    def expand(self, text: str, urls: Sequence[str]) -> str:
        """The rendered prompt with each image token replaced by the image's tokens, as the processor does it.

        Raises:
            BadImage: an image cannot be read, or the rendered text has more or fewer image tokens than
            images.
        """
        assert self._processor is not None, "only called if the model accepts images"
        token = self._processor.image_token
        parts = text.split(token)
        if len(parts) - 1 != len(urls):
            raise BadImage(
                "The model's chat template has no place for one of the images, or the text makes one."
            )
        self._check_pixels(urls)
        images = [self._tokens(url) for url in urls]
        return "".join([parts[0], *(piece for pair in zip(images, parts[1:], strict=True) for piece in pair)])

    def _check_pixels(self, urls: Sequence[str]) -> None:
        """Add up the sizes in the files' headers, before anything is decoded."""
        from PIL import Image  # noqa: PLC0415 - an optional package

        pixels = 0
        for url in urls:
            try:
                data = io.BytesIO(base64.b64decode(url.partition(",")[2]))
                with Image.open(data, formats=_FORMATS) as image:
                    pixels += image.width * image.height
            except Exception as error:  # Pillow's plugins raise anything
                raise BadImage("An image cannot be read.") from error
        if pixels > self._most_pixels:
            raise BadImage("The images have more pixels together than [request] max_image_pixels allows.")

    def _tokens(self, url: str) -> str:
        key = hashlib.sha256(url.encode()).digest()
        if key not in self._expanded:
            try:
                image = self._server._decode_image(url)
                self._expanded[key], _ = self._processor(self._processor.image_token, images=[image])
            except Exception as error:
                raise BadImage("An image cannot be read.") from error
        self._expanded.move_to_end(key)
        if len(self._expanded) > _CACHED:
            self._expanded.popitem(last=False)
        return self._expanded[key]


def _processor(server: Any, config: Mapping[str, Any]) -> Any:
    """The processor that the server chooses by the model's module name; older servers have none."""
    load = getattr(server, "load_processor", None)
    if load is None:
        return None
    from mlx_lm.utils import MODEL_REMAPPING  # noqa: PLC0415 - imports mlx

    kind = config.get("model_type", "")
    module = "custom_model" if config.get("model_file") else MODEL_REMAPPING.get(kind, kind)
    stand_in = type("Model", (), {"__module__": f"mlx_lm.models.{module}"})()
    return load(stand_in, dict(config))
