"""Counts random conversations by segments and in full: `python -m tests.support.exactness MODELS SEED COUNT`.

It is a process of its own, since it imports mlx. It prints one JSON object: kind of model -> comparison.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_lm import server, utils

from proxy.request.completion import Bounds
from proxy.request.parse import parse_chat
from proxy.worker.server_tokenizer import ServerTokenizer
from tests.support.conversations import conversation
from tests.support.tokenizer_zoo import KINDS, Kind


@dataclass(slots=True)
class Outcome:
    """Numbers of conversations by outcome, and the seeds for which the counts differed."""

    incremental: bool
    agreed: int
    refused: int
    different: list[int]


def reference(folder: Path) -> Callable[[dict[str, Any]], int]:
    """A function that counts with the server's own code and none of ours."""
    config = utils.load_config(folder)
    extra = {"trust_remote_code": True}
    tokenizer = utils.load_tokenizer(folder, extra, eos_token_ids=config.get("eos_token_id"))

    def count(body: dict[str, Any]) -> int:
        server.process_message_content(body["messages"])
        return len(
            tokenizer.apply_chat_template(
                body["messages"],
                tools=body.get("tools"),
                tokenize=True,
                add_generation_prompt=True,
                **body.get("chat_template_kwargs", {}),
            )
        )

    return count


def compare(kind: Kind, folder: Path, seeds: range) -> Outcome:
    """Count every conversation twice by segments: as new, and from the retained segments."""
    ours, theirs = ServerTokenizer(folder, ["--trust-remote-code"]), reference(folder)
    outcome = Outcome(ours.info()["incremental"], 0, 0, [])
    for seed in seeds:
        body = parse_chat(json.dumps(conversation(seed, kind.style)).encode(), Bounds()).prompt.fields()
        text = json.dumps(body)
        try:
            expected = theirs(json.loads(text))
        except Exception:  # noqa: BLE001 - the server refuses it too
            outcome.refused += 1
            continue
        counts = [ours.count(json.loads(text), None, incremental=True) for _ in range(2)]
        if counts == [expected, expected]:
            outcome.agreed += 1
        else:
            outcome.different.append(seed)
    return outcome


def main() -> None:
    models, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    share = -(-count // len(KINDS))
    outcomes = {
        kind.name: asdict(
            compare(kind, models / kind.name, range(seed + index * share, seed + (index + 1) * share))
        )
        for index, kind in enumerate(KINDS)
    }
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main()
