"""A minimal gateway to be killed: runs a Supervisor until it gets SIGKILL.

`python host.py STATE_DIR KIND [TOLD...]`: KIND is `fake` (fake_server.py with TOLD as its flags), `on` or
`off` (the real server with the model folder in TOLD, with and without telemetry). Prints `child PID`, then
`ready`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from supervisor.child.options import LaunchSpec, SupervisorOptions
from supervisor.supervisor import Supervisor
from tests.supervisor.conftest import fake_launch, until


async def main(state_dir: Path, kind: str, told: list[str]) -> None:
    async def prepare() -> LaunchSpec:
        if kind == "fake":
            return fake_launch(*told)
        return LaunchSpec(("--model", told[0]), {}, telemetry=kind == "on")

    supervisor = Supervisor(prepare, SupervisorOptions(state_dir))
    await supervisor.start()
    await until(lambda: supervisor.snapshot().pid is not None)
    sys.stdout.write(f"child {supervisor.snapshot().pid}\n")
    sys.stdout.flush()
    await supervisor.ready(60)
    sys.stdout.write("ready\n")
    for line in supervisor.snapshot().log_tail:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
