"""A model that takes images, on a machine without Metal: the embedded model with eyes of its own.

mlx-lm 0.32.2 has image processors for one architecture, which needs Metal. But it takes the processor that
config.json names, and a model's own Python file. So: a tiny llama whose `embed_inputs` puts the mean colour
of an image at its patch tokens, and the installed processor. The server is the unmodified one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

MODEL_FILE = '''
"""A llama that sees one colour."""

import mlx.core as mx
from mlx_lm.models import llama
from mlx_lm.models.llama import ModelArgs

PATCH = 1022


class Model(llama.Model):
    def embed_inputs(self, inputs, pixel_values):
        rows = self.model.embed_tokens(inputs)
        colours = iter([float(p.mean()) for p in pixel_values])
        seen, values = 0.0, []
        tokens = inputs.tolist()
        for place, token in enumerate(tokens):
            if token == PATCH and (place == 0 or tokens[place - 1] != PATCH):
                seen = next(colours)
            values.append(seen if token == PATCH else 0.0)
        return rows + mx.array(values)[:, None]
'''

TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<|patch|>' if part.type == 'image_url' else part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def seeing_model(tiny_llama: Path, folder: Path) -> Path:
    """A copy of the tiny llama, changed as said above."""
    shutil.copytree(tiny_llama, folder)
    (folder / "eyes.py").write_text(MODEL_FILE)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        file.write_text(file.read_text().replace("<tool_response>", "<|patch|>"))
    config = json.loads((folder / "config.json").read_text())
    vision = {"patch_size": 14, "merge_size": 2}
    config |= {"model_file": "eyes.py", "processor_type": "muse_spark", "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
