"""Where settings come from, which source wins, and where each fault is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.loader import ConfigurationError, load
from proxy.config.settings import Settings
from proxy.config.template import render


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def faults_of(text: str = "", environ: dict[str, str] | None = None, sets: tuple[str, ...] = ()) -> list[str]:
    Path("proxy.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(None, environ or {}, sets)
    return [str(fault) for fault in caught.value.faults]


def settings_of(
    text: str = "", environ: dict[str, str] | None = None, sets: tuple[str, ...] = ()
) -> Settings:
    Path("proxy.toml").write_text(text)
    return load(None, environ or {}, sets).settings


# --- which sources, in which order


def test_without_a_file_the_defaults_hold_and_the_log_can_say_so() -> None:
    loaded = load(None, {"HOME": "/x"}, ())
    assert loaded.settings == Settings()
    assert loaded.source == "no proxy.toml here: defaults"
    assert not loaded.places


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"other\.toml: No such file"):
        load(tmp_path / "other.toml", {}, ())


def test_a_file_that_was_asked_for_is_read_instead_of_the_one_here(tmp_path: Path) -> None:
    Path("proxy.toml").write_text("[server]\nport = 1")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2")
    loaded = load(other, {}, ())
    assert (loaded.settings.server.port, loaded.source) == (2, str(other))


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = "[server]\nport = 1\nhost = 'localhost'\n[model]\npath = 'a/b'"
    Path("proxy.toml").write_text(text)
    environ = {"MLXGUARD_SERVER__PORT": "2", "MLXGUARD_SERVER__HOST": "127.0.0.2"}
    loaded = load(None, environ, ("server.port=3", "server.port=4"))
    assert (loaded.settings.server.port, loaded.settings.server.host) == (4, "127.0.0.2")
    assert {".".join(key): place.name for key, place in loaded.places.items()} == {
        "server.port": "--set server.port",
        "server.host": "MLXGUARD_SERVER__HOST",
        "model.path": "proxy.toml:5",
    }


def test_a_faulty_value_that_is_overridden_does_not_matter() -> None:
    assert settings_of("[server]\nport = 'x'", sets=("server.port=3",)).server.port == 3


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("server.port=9000", 9000),
        ("server.port= 9000 ", 9000),
        ("server.host=localhost", "localhost"),
        ('server.host="localhost"', "localhost"),
        ("server.insecure=true", True),
        ("model.revision=123", "123"),
        ("model.revision=2024-05-01", "2024-05-01"),
        ("model.revision=true", "true"),
        ("model.revision=", None),
        ("model.path=org/name=x", "org/name=x"),
        ('server.allowed_hosts=["a", "b"]', ("a", "b")),
        ("server.allowed_hosts=box.local", ("box.local",)),
        ("server.api_keys=12345678", ("12345678",)),
        ("memory.max_active_memory_bytes=24GB", 24 * 10**9),
        ("memory.max_active_memory_bytes=auto", "auto"),
        ("prompt.max_prompt_tokens=32768", 32768),
        ("queue.max_wait_s=1.5", 1.5),
        ("queue.max_wait_s=2", 2.0),
        ('model.path=a\nother = "b"', 'a\nother = "b"'),
    ],
)
def test_text_from_outside_means_what_its_key_can_take(option: str, expected: object) -> None:
    section, key = option.partition("=")[0].split(".")
    variable = f"MLXGUARD_{section}__{key}".upper()
    for settings in (settings_of(sets=(option,)), settings_of(environ={variable: option.partition("=")[2]})):
        assert getattr(getattr(settings, section), key) == expected


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "proxy.toml").write_text(
        "[model]\npath = './m'\n[supervisor]\nstate_dir = 'state'\n[log]\nfile = ''"
    )
    settings = load(folder / "proxy.toml", {}, ()).settings
    assert settings.model.path == str(folder / "m")
    assert settings.supervisor.state_dir == folder / "state"
    assert settings.log.file is None


def test_a_hub_id_is_no_path_and_options_are_relative_to_the_current_folder() -> None:
    settings = settings_of("[model]\npath = 'org/name'", sets=("supervisor.state_dir=state",))
    assert (settings.model.path, settings.supervisor.state_dir) == ("org/name", Path("state"))


# --- every class of fault, with its place


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[server]\nport 9000", "proxy.toml:2: Expected '=' after a key in a key/value pair (column 6)"),
        ("[server]\nport = 1\nport = 2\n", "proxy.toml:3: Cannot overwrite a value (column 9)"),
        ("[server]\n\nhost = 'x", 'proxy.toml:3: Expected "\'" (at the end)'),
        ("port = 1", "proxy.toml:1: there is no key port outside tables; did you mean port in [server]?"),
        ("colour = 1", "proxy.toml:1: there is no key colour outside tables"),
        ("\n[sever]\nport = 1", "proxy.toml:2: there is no table [sever]; did you mean [server]?"),
        ("server = 1", "proxy.toml:1: [server] must be a table"),
        ("[[server]]\nport = 1", "proxy.toml:1: [server] must be a table"),
        ("[server]\nprot = 1", "proxy.toml:2: there is no key prot in [server]; did you mean port?"),
        (
            "[server]\nmax_waiting = 1",
            "proxy.toml:2: there is no key max_waiting in [server]; did you mean max_waiting in [queue]?",
        ),
        ("[server]\nzzz = 1", "proxy.toml:2: there is no key zzz in [server]"),
        (
            "[queue]\nhold_grace_s = 1",
            "proxy.toml:2: there is no key hold_grace_s in [queue]; it is now called headers_after_s",
        ),
        ("[server.tls]\ncert = 1", "proxy.toml:1: there is no key tls in [server]"),
        ("[server]\nport = '9'", 'proxy.toml:2: port must be a whole number, not "9"'),
        ("[server]\nport = 70000", "proxy.toml:2: port must be at most 65535, not 70000"),
        ("server = { port = -1 }", "proxy.toml:1: port must be at least 0, not -1"),
        ("\nserver.port = -1", "proxy.toml:2: port must be at least 0, not -1"),
        ("[server]\ninsecure.a = 1", 'proxy.toml:2: insecure must be true or false, not {"a": 1}'),
        ("[server]\nhost = 2020-01-01", "proxy.toml:2: host must be text in quotes, not 2020-01-01"),
        ("[model]\nrevision = 1.0", "proxy.toml:2: revision must be text in quotes, not 1.0"),
        ("[log]\nfile = 1", "proxy.toml:2: file must be a path in quotes, not 1"),
        ("[queue]\nmax_wait_s = '5m'", 'proxy.toml:2: max_wait_s must be a number, not "5m"'),
        ("[queue]\nmax_wait_s = inf", "proxy.toml:2: max_wait_s must be a finite number, not Infinity"),
        ("[queue]\nkeepalive_s = 0", "proxy.toml:2: keepalive_s must be more than 0.0, not 0"),
        ("[upstream]\nargs = '--temp 1'", 'proxy.toml:2: args must be a list, not "--temp 1"'),
        (
            "[upstream]\nargs = [\n'--temp',\n0.7]",
            "proxy.toml:2: item 2 of args must be text in quotes, not 0.7",
        ),
        (
            "[prompt]\nmax_prompt_tokens = 'all'",
            'proxy.toml:2: max_prompt_tokens must be "auto" or a whole number, not "all"',
        ),
        (
            "[prompt]\nprompt_overflow_policy = 'cut'",
            'proxy.toml:2: prompt_overflow_policy must be "error" or "truncate", not "cut"',
        ),
        (
            "[memory]\nmax_active_memory_bytes = '24 apples'",
            'proxy.toml:2: max_active_memory_bytes must be "auto" or a size such as "24GB", "24GiB" '
            'or 0.75 (of RAM), not "24 apples"',
        ),
        (
            "[memory]\nmax_active_memory_bytes = 1.5",
            'proxy.toml:2: max_active_memory_bytes must be "auto" or a fraction of RAM between 0.0 and 1.0, '
            "or a size with its unit, not 1.5",
        ),
        (
            "[server]\nallowed_origins = ['*']",
            'proxy.toml:2: item 1 of allowed_origins must be an origin as "http://localhost:3000", '
            'without path or *, not "*"',
        ),
        ("[server]\nhost = '0.0.0.0'", "proxy.toml:2: 0.0.0.0 can be reached from other machines: "),
    ],
)
def test_one_fault_in_a_file(text: str, fault: str) -> None:
    (found,) = faults_of(text)
    assert found == fault or (fault.endswith(": ") and found.startswith(fault))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MLXGUARD_SERVER_PORT", "; did you mean MLXGUARD_SERVER__PORT?"),
        ("MLXGUARD_SERVER__READ_TIMEOUT_S", "; it is now called MLXGUARD_SERVER__SEND_TIMEOUT_S"),
        ("MLXGUARD_SERVER__PROT", "; did you mean MLXGUARD_SERVER__PORT?"),
        ("MLXGUARD_SEVER__PORT", "; did you mean MLXGUARD_SERVER__PORT?"),
        ("MLXGUARD_PORT", "; did you mean MLXGUARD_SERVER__PORT?"),
        ("MLXGUARD_server__port", "; did you mean MLXGUARD_SERVER__PORT?"),
        ("MLXGUARD_ZZZ", ""),
    ],
)
def test_unknown_variables(name: str, hint: str) -> None:
    assert faults_of(environ={name: "1", "OTHER": "1"}) == [f"{name}: there is no such setting{hint}"]


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("server.port", "--set server.port: must be table.key=value, for example server.port=9000"),
        ("port=1", "--set port: there is no such setting; did you mean server.port?"),
        ("server.prot=1", "--set server.prot: there is no such setting; did you mean server.port?"),
        ("zzz=1", "--set zzz: there is no such setting"),
        (
            "server.read_timeout_s=1",
            "--set server.read_timeout_s: there is no such setting; it is now called server.send_timeout_s",
        ),
        ("server.port=x", '--set server.port: port must be a whole number, not "x"'),
    ],
)
def test_faulty_options(option: str, fault: str) -> None:
    assert faults_of(sets=(option,)) == [fault]


def test_faulty_value_of_a_variable_is_under_its_name() -> None:
    faults = faults_of(environ={"MLXGUARD_QUEUE__MAX_WAITING": "no"})
    assert faults == ['MLXGUARD_QUEUE__MAX_WAITING: max_waiting must be a whole number, not "no"']


def test_all_faults_are_told_at_once_in_the_order_of_their_places() -> None:
    text = (
        "[log]\nlevel = 'loud'\n[server]\nport = 'x'\nhots = 1\nhost = '0.0.0.0'\n[prompt]\nmax_kv_size = 8\n"
    )
    text += "max_prompt_tokens = 8"
    faults = faults_of(text, {"MLXGUARD_X": "1"}, ("queue.max_waiting=-1",))
    assert [fault.split(": ")[0] for fault in faults] == [
        "proxy.toml:2",
        "proxy.toml:4",
        "proxy.toml:5",
        "proxy.toml:8",
        "MLXGUARD_X",
        "--set queue.max_waiting",
    ]


def test_rules_between_settings_are_not_judged_by_a_value_that_is_itself_in_doubt() -> None:
    """The misspelt key may be the one that the rule asks for; the broken host may not be the one meant."""
    (fault,) = faults_of("[server]\nhost = '0.0.0.0'\napi_kyes = ['k']")
    assert "did you mean api_keys?" in fault
    (fault,) = faults_of("[server]\nhost = 0")
    assert "host must be text" in fault


def test_no_rule_is_judged_when_the_file_could_not_be_read() -> None:
    assert len(faults_of("[server]\napi_keys = [", sets=("server.host=0.0.0.0",))) == 1


def test_a_default_that_breaks_a_rule_is_named_as_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("occupied").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("occupied").absolute()))
    (fault,) = faults_of()
    assert fault.startswith("supervisor.state_dir (default): ")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    Path("proxy.toml").write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigurationError, match=r"^proxy.toml:2: the file is not UTF-8 text$"):
        load(None, {}, ())
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load(tmp_path, {}, ())


@pytest.mark.parametrize("sets", [("server.api_keys=['sk 4711']",), ()])
def test_a_faulty_key_is_not_repeated(sets: tuple[str, ...]) -> None:
    text = "" if sets else "[server]\napi_keys = ['sk 4711']"
    (fault,) = faults_of(text, sets=sets)
    assert "4711" not in fault
    assert "item 1 of api_keys must be KEY or NAME:KEY" in fault


def test_long_values_are_cut() -> None:
    (fault,) = faults_of(f"[server]\nport = '{'x' * 1000}'")
    assert len(fault) < 150


def test_what_the_template_writes_can_be_read() -> None:
    assert settings_of(render({})) == Settings()
