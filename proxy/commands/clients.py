"""`mlxguard-proxy clients`: prints the configuration of a client, writes it to its files, or starts it.

Limits and the model's name come from a running proxy if one answers at the configured address; otherwise from
the settings, and from the plan where those leave a limit open.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.clients.config_file import ConfigFile
from proxy.clients.merging import NotMergeable
from proxy.clients.recipes import RECIPES, ProxyDetails, Recipe, recipe
from proxy.config.api_keys import known_keys
from proxy.config.settings import ServerSettings, Settings
from proxy.exit_codes import ExitCode
from proxy.request.model_names import served_name

#: Seconds within which a running proxy must answer.
_TIMEOUT_S = 3.0


class ClientsFailure(Exception):
    """The command cannot be done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What `--write` does to one file. `before`: None if there is no such file."""

    path: Path
    before: str | None
    after: str

    def diff(self) -> str:
        """The change as a unified diff; empty if there is none."""
        old = (self.before or "").splitlines(keepends=True)
        new = self.after.splitlines(keepends=True)
        name = str(self.path)
        rows = difflib.unified_diff(old, new, name if self.before is not None else "/dev/null", name)
        return "".join(row if row.endswith("\n") else f"{row}\n" for row in rows)


def run(
    settings: Settings,
    name: str | None,
    *,
    write: bool = False,
    launch: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Print, write or launch; the exit code is one of `ExitCode`.

    `launch`: further words for the client, or None if it is not to be started. It replaces this process.
    """
    if name is None:
        sys.stdout.writelines(f"{row}\n" for row in listing())
        return ExitCode.OK
    try:
        if name not in RECIPES:
            raise ClientsFailure(f"there is no client {name!r}; there are {', '.join(RECIPES)}")
        to, source = connection(settings, name)
        made = recipe(name, to)
        if write:
            _write(made, name, environ)
        if launch is not None:
            _launch(made, name, launch, environ)
        elif not write:
            sys.stdout.write("\n".join(screen(made, to, source, environ)) + "\n")
    except ClientsFailure as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIGURATION
    return ExitCode.OK


def listing() -> Iterator[str]:
    """The clients, and the files or variables by which each is configured."""
    example = ProxyDetails("", "", 1, 1)
    for name, (title, make) in RECIPES.items():
        made = make(example)
        places = [file.usual_path for file in made.files] or [", ".join(made.environ)]
        yield f"{name:<12}{title:<15}{', '.join(places)}"


def screen(
    made: Recipe, to: ProxyDetails, source: str, environ: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """A recipe for people: what goes where. Lines that are not part of a file or command begin with #."""
    yield f"# {to.model} at {to.base_url}: prompts of up to {to.window} tokens ({source})"
    for file in made.files:
        yield from ("", f"# {_path(file, environ)}", file.text().rstrip("\n"))
    if made.environ:
        heading = "# or, instead of the file, these variables" if made.either else "# variables"
        yield from (
            "",
            heading,
            *(f"export {key}={shlex.quote(value)}" for key, value in made.environ.items()),
        )
    if made.steps:
        yield from ("", *(f"# {step}" for step in made.steps))
    if made.start:
        yield from ("", "# start", shlex.join(made.start))
    if made.notes:
        yield from ("", *(f"# {note}" for note in made.notes))


def changes(made: Recipe, environ: Mapping[str, str] = os.environ) -> list[ConfigChange]:
    """What would be written to each file of a recipe. Raises ClientsFailure."""
    found = []
    for file in made.files:
        path = _path(file, environ)
        before = None
        try:
            with suppress(FileNotFoundError):
                before = path.read_text(encoding="utf-8")
            found.append(ConfigChange(path, before, file.merged(before or "")))
        except (NotMergeable, OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            message = f"{path} was left as it is: {reason}. Add this to it by hand:\n\n{file.text()}"
            raise ClientsFailure(message) from error
    return found


def apply(change: ConfigChange) -> Path | None:
    """Write a file as a whole, keeping what was there; returns the backup. Raises OSError.

    A link stays a link. A new file can only be read by its owner, since it may have a key in it.
    """
    target = change.path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    if change.before is not None:
        backup = _free_name(target)
        shutil.copy2(target, backup)
    descriptor, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(change.after)
        if backup is not None:
            shutil.copymode(target, scratch)
        Path(scratch).replace(target)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return backup


def connection(settings: Settings, client: str) -> tuple[ProxyDetails, str]:
    """What the client must be told, and where the limits are from. Raises ClientsFailure."""
    server, prompt = settings.server, settings.prompt
    url, key = address(server), _key(server, client)
    model = settings.model.served_name or served_name(settings.model.path)
    window, source = None, "as the running proxy says"
    if (running := _running(url, key)) is not None:
        model, window = running
    if window is None and not isinstance(prompt.max_prompt_tokens, str):
        window, source = prompt.max_prompt_tokens, "prompt.max_prompt_tokens"
    if window is None:
        window, source = _planned(settings), "as planned; no proxy answers"
    output = prompt.default_max_tokens
    return ProxyDetails(url, model, window, output, key, prompt.compaction_headroom_tokens), source


def address(server: ServerSettings) -> str:
    """The URL for clients on this machine. Raises ClientsFailure."""
    if not server.port:
        raise ClientsFailure("server.port is 0, so the port is not known; name it with --port")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"


def _key(server: ServerSettings, client: str) -> str | None:
    """The key that has the client's name, or the first one."""
    keys = known_keys(server)
    return next((key for key, name in keys.items() if name == client), next(iter(keys), None))


def _running(url: str, key: str | None) -> tuple[str, int | None] | None:
    """Name and limit of the model of the proxy that runs there; None if none does."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(
            urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=_TIMEOUT_S
        ) as answer:
            entry = json.load(answer)["data"][0]
        if entry["owned_by"] != "mlxguard-proxy":
            return None
        window = entry.get("context_window")
        return str(entry["id"]), window if isinstance(window, int) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _planned(settings: Settings) -> int:
    """The longest prompt by the plan, which looks at the model on this machine. Raises ClientsFailure."""
    import asyncio  # noqa: PLC0415 - planning is slow to import, and mostly not needed
    import logging  # noqa: PLC0415

    from proxy.config.folders import cache_folder, state_folder  # noqa: PLC0415
    from proxy.planning.learned_limits import LearnedLimits  # noqa: PLC0415
    from proxy.planning.learned_state import LearnedFile  # noqa: PLC0415
    from proxy.planning.planner import Planner, local_folder  # noqa: PLC0415
    from supervisor.model.resolve import ModelUnavailable  # noqa: PLC0415

    logging.getLogger("mlxguard").addHandler(logging.NullHandler())
    remedy = "Start the proxy, or set prompt.max_prompt_tokens, so that the client can be told a limit."
    try:
        folder = local_folder(settings, cache_folder())
        limits = LearnedLimits(LearnedFile(state_folder(settings.supervisor.state_dir)))
        longest = asyncio.run(Planner(settings, cache_folder(), limits).plan(folder)).max_prompt
    except (ModelUnavailable, OSError, ValueError) as failure:
        raise ClientsFailure(f"{failure} {remedy}") from failure
    if longest is None:
        raise ClientsFailure(f"The model has no known context length. {remedy}")
    return longest


def _write(made: Recipe, name: str, environ: Mapping[str, str]) -> None:
    if not made.files:
        raise ClientsFailure(
            f"{name} reads variables only: export what `clients {name}` prints, or use --launch"
        )
    for change in changes(made, environ):
        if not (diff := change.diff()):
            sys.stdout.write(f"{change.path} is as it should be\n")
            continue
        sys.stdout.write(diff)
        try:
            backup = apply(change)
        except OSError as error:
            raise ClientsFailure(f"{change.path}: {error.strerror}") from error
        sys.stdout.write(f"wrote {change.path}{f'; as it was: {backup}' if backup else ''}\n")
    if made.environ and not made.either:
        sys.stdout.writelines(f"export {key}={shlex.quote(value)}\n" for key, value in made.environ.items())


def _launch(made: Recipe, name: str, words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Replace this process by the client."""
    written = bool(made.files) and not any(change.diff() for change in changes(made, environ))
    if made.launch is not None and not written:
        command, added, removed = made.launch.command, made.launch.environ, made.launch.unset
    elif written:
        command, added, removed = made.start, made.environ, made.launch.unset if made.launch else ()
    else:
        raise ClientsFailure(f"{name} reads its limits from a file only: add --write")
    full = [*command, *words]
    if not full:
        raise ClientsFailure("name the program to start after --launch")
    if (program := shutil.which(full[0], path=environ.get("PATH"))) is None:
        raise ClientsFailure(f"{full[0]} is not on the PATH")
    sys.stdout.flush()
    kept = {key: value for key, value in environ.items() if key not in removed}
    try:
        os.execve(program, full, {**kept, **added})
    except OSError as error:
        raise ClientsFailure(f"{program}: {error.strerror}") from error


def _path(file: ConfigFile, environ: Mapping[str, str]) -> Path:
    """The file that the client reads: the first that exists, else the first."""
    home = environ.get("HOME") or str(Path.home())
    paths = [Path(path) for path in file.candidates(environ, home, sys.platform)]
    return next((path for path in paths if path.exists()), paths[0])


def _free_name(path: Path) -> Path:
    """A name for the backup that no file has yet."""
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in range(10_000))
    return next(name for name in names if not name.exists())
