"""What the guard is compared with: nothing, nginx, the least aiohttp proxy, LiteLLM; each as users run it.

All of them ask the same child.c; the guard has one of its own, which it starts itself through
`[upstream] command`.
"""

from __future__ import annotations

import getpass
import grp
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bench.load import KEY, Missing, model, program, tool
from tests.figures import ROOT
from tests.real.processes import free_port
from tests.real.processes import guard as running_guard
from tests.real.venvs import environment

LITELLM = "litellm[proxy]==1.106.2"

#: Every policy that costs something per request is on; what is not here is on by default.
POLICIES = {
    "server.api_keys": f'["bench:{KEY}", "other:another-key-of-it"]',
    "server.allowed_origins": '["http://localhost:3000"]',
    "prompt.max_prompt_tokens": 200_000,
    "prompt.prompt_overflow_policy": "truncate",
    "prompt.trim_tool_output": "true",
    "prompt.max_kv_size": 250_000,
    "memory.max_active_kv_bytes": "8GB",
    "upstream.decode_concurrency": 16,
    "upstream.prompt_concurrency": 16,
    "model.served_name": "bench",
}


@dataclass(frozen=True, slots=True)
class Side:
    """One way to the child. `processes`: all that it needs, but the child."""

    name: str
    port: int
    processes: tuple[psutil.Process, ...] = ()
    started_s: float = 0.0  # from its start to its first answer
    chunks: int = field(default=20_000)  # of a burst


@contextmanager
def child() -> Iterator[Side]:
    """child.c by itself."""
    port = free_port()
    with _process("direct", [program("child"), "--port", str(port)], port, "/health") as side:
        yield Side(side.name, port)


@contextmanager
def nginx(upstream: int, folder: Path) -> Iterator[Side]:
    """One worker, without buffering, as streams need it."""
    port, home = free_port(), folder / "nginx"
    home.mkdir(exist_ok=True)
    places = "".join(
        f"{name}_temp_path {home}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name};" if os.getuid() == 0 else ""
    configuration = home / "nginx.conf"
    configuration.write_text(
        f"daemon off; {user} worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; client_max_body_size 64m; client_body_buffer_size 1m; {places}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{\n"
        f"proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_buffering off; }} }} }}\n"
    )
    command = [tool("nginx", "nginx-light"), "-p", str(home), "-c", str(configuration)]
    with _process("nginx", command, port, "/health") as side:
        yield side


@contextmanager
def passthrough(upstream: int) -> Iterator[Side]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.passthrough", str(port), str(upstream)]
    with _process("aiohttp", command, port, "/livez") as side:
        yield side


@contextmanager
def litellm(upstream: int, folder: Path) -> Iterator[Side]:
    """One worker, and nothing switched on but the key that it insists on. Raises Missing."""
    try:
        programs = environment(LITELLM)
    except subprocess.CalledProcessError as error:
        raise Missing(f"{LITELLM} cannot be installed: {error}") from error
    port, configuration = free_port(), folder / "litellm.yaml"
    parameters = f"{{model: openai/bench, api_base: 'http://127.0.0.1:{upstream}/v1', api_key: none}}"
    configuration.write_text(f"model_list:\n - {{model_name: bench, litellm_params: {parameters}}}\n")
    words = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environ = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    command = [programs / "litellm", *words, "--telemetry", "False"]
    with _process("litellm", command, port, "/health/liveliness", environ) as side:
        yield Side(side.name, side.port, side.processes, side.started_s, chunks=1_000)


@contextmanager
def guard(folder: Path) -> Iterator[Side]:
    """With every policy on, and a child of its own; ready."""
    with running_guard(model(), folder, *_policies()) as proxy:
        port = int(proxy.url.rsplit(":", 1)[1])
        yield Side("guard", port, guards_processes(proxy.process.pid))


@contextmanager
def started_guard(folder: Path) -> Iterator[Side]:
    """As `guard`, from the moment at which it answers; `processes` is the gateway alone."""
    port = free_port()
    settings = {"server.port": port, "model.path": model(), "supervisor.state_dir": folder / "state"}
    words = [f"--set={name}={value}" for name, value in settings.items()]
    command = [Path(sys.executable).with_name("mlxguard-proxy"), *words, *_policies()]
    with _process("guard", command, port, "/livez") as side:
        yield side


def _policies() -> list[str]:
    command = f'["{program("child")}"]'
    return [f"--set={name}={value}" for name, value in {**POLICIES, "upstream.command": command}.items()]


def guards_processes(pid: int) -> tuple[psutil.Process, ...]:
    """The gateway first, then keeper and tokenizer worker; not the child."""
    gateway = psutil.Process(pid)
    ours = [each for each in gateway.children(recursive=True) if each.name() != program("child").name]
    return (gateway, *ours)


@contextmanager
def _process(
    name: str, command: Sequence[str | Path], port: int, path: str, environ: dict[str, str] | None = None
) -> Iterator[Side]:
    """A server that is ended at the end of the block."""
    log = ROOT / ".out" / "bench" / f"{name}.log"
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env=os.environ | (environ or {})
        )
    try:
        while not answers(f"http://127.0.0.1:{port}{path}"):
            assert process.poll() is None, f"{name} ended: {log.read_text()[-2000:]}"
            assert time.perf_counter() - began < 120, f"{name} does not answer"
        took = time.perf_counter() - began
        first = psutil.Process(process.pid)
        yield Side(name, port, (first, *first.children(recursive=True)), took)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether a GET succeeds; polls at 5 ms."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        time.sleep(0.005)
        return False
