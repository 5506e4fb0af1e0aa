"""Renders odd histories: `python -m tests.support.template_rendering MODEL TEMPLATES COUNT`.

A process of its own, since it imports mlx. Prints one JSON object: template -> what became of its histories,
raw (as the bare server would render them) and adapted.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from proxy.request.adapt import adapt, adapt_tools
from proxy.request.mends import Mends
from proxy.request.template_traits import known
from proxy.worker.server_tokenizer import ServerTokenizer
from tests.support.odd_histories import odd_history

TOOL = {"type": "function", "function": {"name": "f"}}


def outcome(model: Path, template: Path, count: int) -> dict[str, Any]:
    """Histories that the template refuses, raw and adapted, with the reasons; counts that were not exact."""
    with tempfile.TemporaryDirectory() as folder:
        for file in model.iterdir():
            if not file.name.endswith(".safetensors"):
                shutil.copy(file, folder)
        shutil.copy(template, Path(folder, "chat_template.jinja"))
        settings = Path(folder, "tokenizer_config.json")
        content = json.loads(settings.read_text())
        settings.write_text(json.dumps({"bos_token": content["eos_token"], **content}))  # templates write it
        tokenizer = ServerTokenizer(Path(folder), [])
    traits = known(tokenizer.info()["template"])
    refused: Counter[str] = Counter()
    raw = different = 0
    for seed in range(count):
        messages, tools = odd_history(seed), (TOOL,)
        raw += not _renders(tokenizer, {"messages": messages, "tools": list(tools)})
        mends = Mends()
        prompt = {
            "messages": list(adapt(messages, traits, mends)),
            "tools": list(adapt_tools(tools, traits, mends) or ()),
        }
        try:
            counts = {
                tokenizer.count(copy.deepcopy(prompt), None, incremental=each) for each in (True, False)
            }
        except Exception as error:  # noqa: BLE001 - a template raises what it likes
            refused[f"{type(error).__name__}: {error}"] += 1
            continue
        different += len(counts) != 1
    return {"raw": raw, "refused": dict(refused), "different": different, "renders": traits.renders}


def _renders(tokenizer: ServerTokenizer, prompt: dict[str, Any]) -> bool:
    try:
        tokenizer.render(copy.deepcopy(prompt))
    except Exception:  # noqa: BLE001
        return False
    return True


def main() -> None:
    model, templates, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    found = {each.stem: outcome(model, each, count) for each in sorted(templates.glob("*.jinja"))}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
