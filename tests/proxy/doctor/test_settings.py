"""What the settings need of a machine. Evidence of a Mac is made up after Apple's documentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.doctor import settings
from proxy.doctor.check_result import CheckVerdict
from proxy.doctor.settings import StateSeen
from supervisor.memory_model.ceiling import Readings, ceiling
from tests.proxy.commands.test_plan import make
from tests.proxy.doctor.test_machine import verdict

GB = 10**9
OK, WARNING, FAILED = CheckVerdict
MAC = Readings(68 * GB, 50 * GB, backend="metal", working_set=51 * GB, wired_limit=0)
STATE = StateSeen(Path("/state"), 9 * GB)


def test_a_configuration_with_faults_tells_all() -> None:
    assert verdict(settings.configuration("proxy.toml", [])) is OK
    finding = settings.configuration("", ["server.port is no number", "there is no key prot"])
    assert verdict(finding) is FAILED
    assert finding.found == "server.port is no number; there is no key prot"


@pytest.mark.parametrize(
    ("readings", "platform", "expected"),
    [
        (MAC, "darwin", OK),
        (replace(MAC, wired_limit=None), "darwin", WARNING),
        (replace(MAC, available=3 * GB), "darwin", WARNING),
        (Readings(68 * GB, 50 * GB), "linux", OK),
    ],
)
def test_memory(readings: Readings, platform: str, expected: CheckVerdict) -> None:
    assert verdict(settings.memory(readings, ceiling(readings), platform)) is expected


def test_memory_says_where_its_ceiling_comes_from() -> None:
    assert settings.memory(MAC, ceiling(MAC), "darwin").found == (
        "50.0 GB of 68.0 GB free; the server may use 46.6 GB (memory free now, less 3.4 GB for the system; "
        "Metal's working set 51.0 GB, wired limit default)"
    )


def test_a_configured_ceiling_above_the_machines_is_told() -> None:
    assert verdict(settings.memory(MAC, ceiling(MAC, configured=60 * GB), "darwin")) is WARNING


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (STATE, OK),
        (replace(STATE, free=10**6), WARNING),
        (replace(STATE, holder="another mlxguard-proxy (pid 7)", holder_pid=7), WARNING),
        (replace(STATE, fault="Permission denied"), FAILED),
    ],
)
def test_state(seen: StateSeen, expected: CheckVerdict) -> None:
    assert verdict(settings.state(seen)) is expected


@pytest.mark.parametrize(
    ("fault", "proxy_pid", "expected"),
    [
        (None, None, OK),
        ("it is in use by python3 (pid 7)", 7, WARNING),  # the proxy that has the state folder
        ("it is in use by nginx (pid 77)", 7, FAILED),
        ("Cannot assign requested address", None, FAILED),
    ],
)
def test_port(fault: str | None, proxy_pid: int | None, expected: CheckVerdict) -> None:
    assert verdict(settings.port("127.0.0.1:8080", fault, proxy_pid)) is expected


def test_model() -> None:
    plan = replace(make(), warnings=())
    assert verdict(settings.model("m", plan)) is OK
    assert verdict(settings.model("m", replace(plan, warnings=("Little fits.",)))) is WARNING
    too_large = make(gigabytes=8)
    assert verdict(settings.model("m", too_large)) is FAILED
    assert verdict(settings.no_model("org/m", "is not there", downloadable=True)) is WARNING
    assert verdict(settings.no_model("./m", "is not there", downloadable=False)) is FAILED
