"""schemathesis on our own description, with the real server behind: `make campaign WHAT=api [N=] [SEED=]`.

It draws requests from /mlxguard/openapi.json, good ones and bad, and holds every answer to the description:
no server error, no status, media type or body that is not described.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.campaign.edge import make_model
from tests.figures import bar
from tests.real.processes import guard
from tests.real.venvs import environment

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
#: Answers are as long as they are asked to be; so is a request of this campaign, then.
SETTINGS = ("--set=prompt.max_kv_size=256", "--set=prompt.default_max_tokens=4")

_SUMMARY = re.compile(r"(\d+) generated(?:, (\d+) passed)?")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign api", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=60, help="of examples for each operation")
    options = parser.parse_args(argv)
    program = environment("schemathesis==4.32.5") / "schemathesis"
    words = [f"--seed={options.seed}", f"--max-examples={options.number}", f"--checks={','.join(CHECKS)}"]
    words += ["--continue-on-failure", "--request-timeout=60", "--phases=examples,coverage,fuzzing"]
    with (
        tempfile.TemporaryDirectory() as folder,
        guard(make_model(Path(folder)), Path(folder), *SETTINGS) as proxy,
    ):
        before = proxy.status()["child"]["generation"]
        command = [program, "run", f"{proxy.url}/mlxguard/openapi.json", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        lives = proxy.status()["child"]["generation"] - before
    print(done.stdout)
    found = _SUMMARY.search(done.stdout)
    generated, passed = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    held = [
        bar("api_cases", generated, 1000, at_least=True),
        bar("api_failures", generated - passed, 0),
        bar("api_deaths", lives, 0),
    ]
    return 0 if all(held) and done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
