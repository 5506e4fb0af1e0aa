"""Coding agents as their users run them, but not interactively, each with a home folder of its own.

They are configured as docs/agents.md says, installed once from tests/agents/package-lock.json, and kept under
.out/ for later runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from tests.support import tools

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ROOT / "tests" / "agents"
DOCUMENT = (ROOT / "docs" / "agents.md").read_text()

#: Packages whose install script must run.
NATIVE = ("opencode-ai", "@anthropic-ai/claude-code")

#: A port that nobody listens on: what an agent wants from the network, but for the proxy, fails at once.
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Agent:
    """How to run one; the prompt is its last argument."""

    name: str
    title: str  # of its section in docs/agents.md
    command: tuple[str, ...]
    go_on: str  # the option that continues the last conversation
    words: int  # a prompt of so many fits beside its instructions, twice as many do not
    environ: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)  # further files in its home folder

    def files(self, base_url: str, context: int) -> dict[str, str]:
        """Its configuration from docs/agents.md: name in the home folder -> content."""
        section = DOCUMENT.split(f"\n## {self.title}\n")[1].split("\n## ")[0]
        found = re.findall(r"`~/(\S+)`:\n\n```json\n(.*?)```", section, re.DOTALL)
        assert found, f"docs/agents.md shows no configuration for {self.title}"
        told = {"http://127.0.0.1:8080/v1": base_url, "60000": str(context)}
        for old, new in told.items():
            assert all(old in content for _, content in found)
            found = [(name, content.replace(old, new)) for name, content in found]
        return dict(found) | self.extra


AGENTS = {
    agent.name: agent
    for agent in (
        Agent(
            "pi",
            "pi",
            ("pi", "-p", "--provider", "mlx", "--model", "tiny"),
            "--continue",
            6000,
            environ={"PI_OFFLINE": "1"},
            # By default it compacts nothing that is shorter than what is sent here.
            extra={".pi/agent/settings.json": '{"compaction": {"keepRecentTokens": 1000}}'},
        ),
        Agent(
            "opencode",
            "OpenCode",
            ("opencode", "run"),
            "--continue",
            4500,
            environ={"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
        ),
        Agent("qwen", "Qwen Code", ("qwen", "--yolo"), "--continue", 1200),
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

    def __init__(self, agent: Agent, home: Path, base_url: str, *, context: int) -> None:
        self.agent, self.home = agent, home
        self.project = home / "project"
        for folder in (self.project, home / "tmp"):
            folder.mkdir()
        for name, content in agent.files(base_url, context).items():
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
