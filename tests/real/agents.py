"""Coding agents as their users run them, but not interactively, each with a home folder of its own.

They are configured by what `mlxguard-proxy clients NAME --write` writes, installed once from
tests/agents/package-lock.json, and kept under .out/ for later runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from proxy.clients.recipes import ProxyDetails, recipe
from proxy.commands.clients import apply, changes
from tests.support import tools

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ROOT / "tests" / "agents"

#: Packages whose install script must run.
NATIVE = ("opencode-ai", "@anthropic-ai/claude-code")

#: A port that nobody listens on: what an agent wants from the network, but for the proxy, fails at once.
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Agent:
    """How to run one; the prompt is its last argument."""

    name: str  # as `mlxguard-proxy clients` knows it
    command: tuple[str, ...]
    words: int  # a prompt of so many fits beside its instructions
    go_on: str = ""  # the option that continues the last conversation, if that is tested
    environ: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)  # further files in its home folder


AGENTS = {
    agent.name: agent
    for agent in (
        Agent(
            "pi",
            ("pi", "-p", "--provider", "mlx", "--model", "tiny"),
            6000,
            "--continue",
            environ={"PI_OFFLINE": "1"},
            # By default it compacts nothing that is shorter than what is sent here.
            extra={".pi/agent/settings.json": '{"compaction": {"keepRecentTokens": 1000}}'},
        ),
        Agent(
            "opencode",
            ("opencode", "run"),
            4500,
            "--continue",
            environ={"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
        ),
        Agent("qwen-code", ("qwen", "--yolo"), 1200, "--continue"),
        Agent(
            "claude-code",
            # -p stands after the list of tools, which would take the prompt for one.
            ("claude", "--allowedTools", "Bash", "-p"),
            3400,
            "--continue",
            environ={"DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1"},
        ),
        Agent(
            "codex",
            (
                *("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
                *("-c", "analytics.enabled=false", "-c", "check_for_update_on_startup=false"),
            ),
            4000,
        ),
    )
}


def install() -> Path:
    """The folder with the agents' commands. Raises Missing.

    `npm install` and not `npm ci`, which refuses a lock without other platforms' optional packages, such as
    one that was made with a registry that does not carry them; all versions are exact all the same.
    Of the packages' install scripts only OpenCode's and Claude Code's run: they put this platform's program
    in its place.
    """
    found = tools.node()
    lock = (PACKAGES / "package-lock.json").read_bytes()
    folder = ROOT / ".out" / f"agents-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        complete = folder / "complete"  # written last, so that half an installation is never used
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(PACKAGES, folder)
            environ = os.environ | {"PATH": f"{found.folder}:{os.environ['PATH']}"}
            for words in (("install", "--ignore-scripts"), ("rebuild", *NATIVE)):
                command = [*found.npm, *words, "--no-audit", "--no-fund", "--loglevel=error"]
                subprocess.run(command, cwd=folder, env=environ, check=True)
            complete.touch()
    return folder / "node_modules" / ".bin"


class Desk:
    """A home folder and a project for one agent.

    Args:
        context: how many tokens the agent believes that a prompt may have.
    """

    def __init__(self, agent: Agent, home: Path, url: str, *, context: int) -> None:
        self.agent, self.home = agent, home
        self.project = home / "project"
        for folder in (self.project, home / "tmp"):
            folder.mkdir()
        for change in changes(recipe(agent.name, ProxyDetails(url, "tiny", context, 4096)), self._environ()):
            apply(change)
        for name, content in agent.extra.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(content)

    def ask(self, prompt: str, *, go_on: bool = False) -> Run:
        """Start it in the project."""
        program = install() / self.agent.command[0]
        options = (self.agent.go_on,) if go_on else ()
        process = subprocess.Popen(
            [program, *self.agent.command[1:], *options, prompt],
            cwd=self.project,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Qwen Code works in a child process
        )
        return Run(process)

    def _environ(self) -> dict[str, str]:
        """Nothing of the machine's own, whose variables may name other models, keys and proxies."""
        return {
            "PATH": f"{tools.node().folder}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),  # OpenCode leaves 6 MB there with each run
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
            "XDG_STATE_HOME": str(self.home / ".local/state"),
            "LANG": "C.UTF-8",
            "HTTP_PROXY": NOWHERE,
            "HTTPS_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1",
            "npm_config_registry": NOWHERE,
            **self.agent.environ,
        }


@dataclass(frozen=True, slots=True)
class Run:
    """An agent at work."""

    process: subprocess.Popen[str]

    def finish(self, timeout_s: float) -> tuple[int, str]:
        """Exit code and all output. Raises TimeoutExpired; nothing of it is left in either case."""
        try:
            said, _ = self.process.communicate(timeout=timeout_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, said
