"""The ceiling, from readings as machines give them."""

from __future__ import annotations

import pytest

from supervisor.memory_model.ceiling import Bound, Readings, advised_wired_limit, ceiling, default_reserve, gb

GIB = 2**30
#: A 64 GB Mac with 10 GB in use: `mx.device_info()` recommends three quarters of RAM.
MAC = Readings(total=64 * GIB, available=54 * GIB, backend="metal", working_set=48 * GIB, wired_limit=0)
LINUX = Readings(total=32 * GIB, available=20 * GIB)


def test_metals_working_set_bounds_a_free_mac() -> None:
    found = ceiling(MAC)
    assert found.bytes == 48 * GIB
    assert found.source == "Metal's recommended working set"
    assert "memory free now" in found.others[0].source


def test_the_wired_limit_replaces_the_working_set() -> None:
    raised = Readings(
        total=64 * GIB, available=60 * GIB, backend="metal", working_set=48 * GIB, wired_limit=52 * GIB
    )
    assert ceiling(raised).source == "iogpu.wired_limit_mb"
    assert ceiling(raised).bytes == 52 * GIB


def test_a_better_wired_limit_is_advised_only_where_it_is_what_holds() -> None:
    assert ceiling(MAC).wired_mb == 56 * 1024
    busy = Readings(total=64 * GIB, available=20 * GIB, backend="metal", working_set=48 * GIB)
    assert ceiling(busy).wired_mb is None
    assert advised_wired_limit(LINUX) is None


def test_a_small_mac_keeps_six_gibibytes() -> None:
    small = Readings(total=16 * GIB, available=12 * GIB, backend="metal", working_set=int(10.67 * GIB))
    assert advised_wired_limit(small) is None


def test_what_others_use_and_a_reserve_are_left_to_them() -> None:
    found = ceiling(LINUX)
    assert found.bytes == 20 * GIB - default_reserve(LINUX)
    assert ceiling(LINUX, reserve=0).bytes == 20 * GIB
    assert ceiling(LINUX, reserve=21 * GIB).bytes == 0


def test_what_the_child_has_already_is_not_taken_by_others() -> None:
    assert ceiling(LINUX, reserve=0, child=5 * GIB).bytes == 25 * GIB


def test_a_control_group_bounds_and_sizes_the_reserve() -> None:
    group = Readings(total=32 * GIB, available=30 * GIB, cgroup_limit=8 * GIB, cgroup_used=2 * GIB)
    assert default_reserve(group) == 512 * 2**20
    assert ceiling(group).bytes == 6 * GIB - 512 * 2**20
    assert ceiling(group).source.startswith("the control group's limit")
    assert ceiling(group, child=2 * GIB).bytes == 8 * GIB - 512 * 2**20


def test_with_cuda_the_cards_memory_counts_and_no_other() -> None:
    card = Readings(total=GIB, available=GIB, backend="cuda", gpu_total=140 * GIB, gpu_free=100 * GIB)
    assert ceiling(card).bytes == 99 * GIB
    assert "GPU memory free now" in ceiling(card).source


def test_a_configured_ceiling_wins_and_is_held_against_the_machine() -> None:
    found = ceiling(LINUX, configured=GIB)
    assert (found.bytes, found.exceeds) == (GIB, None)
    too_much = ceiling(LINUX, configured=24 * GIB)
    assert too_much.bytes == 24 * GIB
    assert too_much.exceeds is not None
    assert too_much.exceeds.bytes < 20 * GIB


def test_what_crashes_have_taught_is_a_bound_too() -> None:
    assert ceiling(LINUX, learned=Bound(3 * GIB, "a crash")).source == "a crash"


def test_a_configured_maximum_does_not_stop_us_from_learning() -> None:
    found = ceiling(LINUX, configured=4 * GIB, learned=Bound(3 * GIB, "a crash"))
    assert (found.bytes, found.source, found.exceeds) == (3 * GIB, "a crash", None)
    assert found.others[0] == Bound(4 * GIB, "memory.max_active_memory_bytes")


@pytest.mark.parametrize(("size", "text"), [(1.5e9, "1.5 GB"), (999e6, "999 MB"), (0, "0 MB")])
def test_sizes_are_decimal_as_in_the_configuration(size: float, text: str) -> None:
    assert gb(size) == text
