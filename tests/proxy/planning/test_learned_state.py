"""The learned state: what is written is read again, damage is set aside, and version 0.1 is taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.corrections import Correction, Corrections
from proxy.planning.learned_limits import LIMITS, StoredLimits
from proxy.planning.learned_state import FILE, LearnedFile, forget, read_section
from proxy.relay.blame import MOST_RECORDS, CrashRecord
from proxy.relay.quarantine import SUSPECTS, StoredLedger
from supervisor.memory_model.learned_ceiling import LearnedCeiling, MemoryDeath, lowered
from supervisor.state.json_file import DamagedState

KEY = {"model": "abc", "mlx": "1.0", "mlx-lm": "2.0", "flags": "", "machine": "m"}
LEARNED = lowered(LearnedCeiling(), MemoryDeath("cuda_oom", 9, 10, 5.0))
STORED = StoredLimits(KEY, LEARNED, Corrections(Correction(1.2, (), 7.0), Correction(0.9, (), 8.0)))
RECORD = CrashRecord(("memory", "wedge"), True, 7, 5.0, 1, 9.0)
LEDGER = StoredLedger({"f1": RECORD}, 100, "m")

#: The files as version 0.1 wrote them.
FORMER_LIMITS = {
    "version": 1,
    "key": KEY,
    "learned": {
        "share": 0.81,
        "deaths": 2,
        "last": {"cause": "metal_oom", "held": 9, "ceiling": 10, "at": 5.0},
        "worked_s": 3.0,
    },
    "corrections": {"alone": {"belief": 1.2, "at": 7.0}, "together": {"belief": 0.9, "at": 8.0}},
}
FORMER_SUSPECTS = {
    "version": 1,
    "model": "m",
    "proven_tokens": 100,
    "records": {
        "f1": {
            "kinds": ["memory", "wedge"],
            "prefilling": True,
            "prompt_tokens": 7,
            "last": 5.0,
            "sentences": 1,
            "until": 9.0,
        }
    },
}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_sections_are_written_into_one_file_and_read_again(tmp_path: Path) -> None:
    file = LearnedFile(tmp_path)
    assert (file.load(LIMITS), file.load(SUSPECTS)) == (None, None)
    file.save(LIMITS, STORED)
    file.save(SUSPECTS, LEDGER)
    await file.stop()
    assert names(tmp_path) == {FILE}
    later = LearnedFile(tmp_path)
    assert (later.load(LIMITS), later.load(SUSPECTS)) == (STORED, LEDGER)


async def test_without_a_folder_nothing_is_kept() -> None:
    file = LearnedFile()
    file.save(LIMITS, STORED)
    await file.stop()
    assert file.load(LIMITS) is None
    assert not file.removed(LIMITS)


async def test_a_section_that_another_process_removed_does_not_come_back(tmp_path: Path) -> None:
    file = LearnedFile(tmp_path)
    file.save(LIMITS, STORED)
    file.save(SUSPECTS, LEDGER)
    assert not file.removed(LIMITS), "it may not be on disk yet"
    await file.stop()
    assert not file.removed(LIMITS)
    assert forget(tmp_path, LIMITS)
    assert not forget(tmp_path, LIMITS)
    file.save(SUSPECTS, LEDGER)
    await file.stop()
    assert file.removed(LIMITS)
    assert read_section(tmp_path, LIMITS) is None
    assert read_section(tmp_path, SUSPECTS) == LEDGER


def damaged(section: str, *path: str | int, value: Any) -> bytes:
    """A good document with one bad value."""
    document = {
        "version": 1,
        "limits": json.loads(LIMITS.form.dump_json(STORED)),
        "suspects": json.loads(SUSPECTS.form.dump_json(LEDGER)),
    }
    inner: Any = document[section]
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(document).encode()


DAMAGED = {
    "no JSON": b"{",
    "no object": b"[]",
    "no UTF-8": b'{"version": 1, "\xff": 0}',
    "another version": b'{"version": 2, "limits": {}}',
    "deep nesting": b'{"version": 1, "limits": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too large": b'{"version": 1, "x": "' + b"x" * 2**21 + b'"}',
    "NaN": damaged("limits", "learned", "share", value=float("nan")),
    "infinity": damaged("limits", "learned", "last", "at", value=float("inf")),
    "1e999": damaged("limits", "learned", "share", value=7).replace(b"7", b"1e999"),
    "a huge integer": damaged("limits", "learned", "deaths", value=10**4000),
    "an absurd share": damaged("limits", "learned", "share", value=0.1),
    "a factor too small": damaged("limits", "corrections", "alone", "belief", value=0.1),
    "a factor too large": damaged("limits", "corrections", "alone", "belief", value=9.0),
    "a factor as text": damaged("limits", "corrections", "alone", "belief", value="1.0"),
    "no factor": damaged("limits", "corrections", "alone", "belief", value=None),
    "an absurd time": damaged("limits", "corrections", "together", "at", value=1e300),
    "a negative time of work": damaged("limits", "learned", "worked_s", value=-1),
    "a key of numbers": damaged("limits", "key", "model", value=3),
    "another section": damaged("limits", "key", value=[1]),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
async def test_damage_is_logged_once_never_acted_on_and_copied_before_the_next_write(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    file = LearnedFile(tmp_path)
    assert file.load(LIMITS) is None
    assert warnings(caplog) == ["learned_state_set_aside"]
    (record,) = caplog.records
    assert "\n" not in record.__dict__["error"]
    assert len(record.__dict__["error"]) < 1000
    with pytest.raises(DamagedState, match=FILE):
        read_section(tmp_path, LIMITS)
    assert names(tmp_path) == {FILE}, "commands only read"
    file.save(LIMITS, STORED)
    await file.stop()
    assert read_section(tmp_path, LIMITS) == STORED
    assert record.__dict__["copy"] == str(tmp_path / f"{FILE}.bad")
    assert (tmp_path / f"{FILE}.bad").read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        damaged("suspects", "model", value=7),
        damaged("suspects", "proven_tokens", value=-1),
        damaged("suspects", "proven_tokens", value=10**300),
        damaged("suspects", "records", value=3),
        damaged("suspects", "records", value={"f": {}}),
        damaged("suspects", "records", "f1", "kinds", value=[]),
        damaged("suspects", "records", "f1", "kinds", value=["x"] * 9),
        damaged("suspects", "records", "f1", "until", value=1e300),
        damaged("suspects", "records", "f1", "sentences", value=10**9),
        damaged("suspects", "records", "f1", "prefilling", value="yes"),
        damaged("suspects", "records", value={str(number): {} for number in range(MOST_RECORDS + 1)}),
    ],
    ids=range(11),
)
def test_damaged_suspects_are_set_aside_and_the_other_section_is_used(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    file = LearnedFile(tmp_path)
    assert file.load(SUSPECTS) is None
    assert file.load(LIMITS) == STORED
    assert warnings(caplog) == ["learned_state_set_aside"]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir()
    assert LearnedFile(tmp_path).load(LIMITS) is None
    assert warnings(caplog) == ["learned_state_not_read"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *FORMER_LIMITS,
                        *FORMER_SUSPECTS,
                        *FORMER_LIMITS["learned"],
                        "alone",
                        "belief",
                        "a",
                        "kinds",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_content_gives_a_value_or_is_damaged(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    folder = tmp_path_factory.mktemp("state")
    (folder / FILE).write_text(json.dumps({"version": 1, "limits": content, "suspects": content}))
    for section in (LIMITS, SUSPECTS):
        try:
            read_section(folder, section)
        except DamagedState:
            continue


def test_a_damaged_file_is_forgotten_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    assert forget(tmp_path, LIMITS)
    assert not (tmp_path / FILE).exists()


def former(folder: Path) -> None:
    (folder / "limits.json").write_text(json.dumps(FORMER_LIMITS))
    (folder / "suspects.json").write_text(json.dumps(FORMER_SUSPECTS))


async def test_the_files_of_version_0_1_are_taken_over_once(tmp_path: Path) -> None:
    former(tmp_path)
    file = LearnedFile(tmp_path)
    limits, ledger = file.load(LIMITS), file.load(SUSPECTS)
    assert limits is not None
    assert (limits.key, limits.learned.share, limits.learned.deaths) == (KEY, 0.81, 2)
    assert limits.corrections == STORED.corrections
    assert ledger == LEDGER
    assert not (tmp_path / FILE).exists(), "reading alone changes nothing"
    assert not file.removed(LIMITS)
    file.save(LIMITS, limits)
    await file.stop()
    assert names(tmp_path) == {FILE, "suspects.json"}
    file.save(SUSPECTS, LEDGER)
    await file.stop()
    assert names(tmp_path) == {FILE}
    later = LearnedFile(tmp_path)
    assert (later.load(LIMITS), later.load(SUSPECTS)) == (limits, LEDGER)


def test_a_reset_forgets_a_file_of_version_0_1_too(tmp_path: Path) -> None:
    former(tmp_path)
    assert forget(tmp_path, LIMITS)
    assert read_section(tmp_path, LIMITS) is None
    assert read_section(tmp_path, SUSPECTS) == LEDGER


def test_a_damaged_file_of_version_0_1_is_set_aside_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "limits.json").write_text("{")
    assert LearnedFile(tmp_path).load(LIMITS) is None
    (record,) = caplog.records
    assert record.__dict__["copy"] == str(tmp_path / "limits.json.bad")
