"""A part of the hostile corpus against the real server; all of it is `make campaign WHAT=edge`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeTiny
from tests.real.hostile import SETTINGS, Target
from tests.real.hostile_corpus import corpus
from tests.real.hostile_pictures import SETTINGS as SEEING
from tests.real.hostile_pictures import pictures
from tests.real.processes import guard
from tests.real.seeing_model import seeing_model

pytestmark = pytest.mark.real

CORPUS = corpus()

#: Every family is sampled at this stride; poison, which is what the guard is for, is sent whole.
STRIDES = {"types": 17, "poison": 1, "sizes": 6, "encodings": 4, "framing": 4, "heads": 5}


@pytest.fixture(scope="module")
def target(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with guard(tiny_model, tmp_path_factory.mktemp("hostile"), *SETTINGS) as proxy:
        yield Target.of(proxy)


@pytest.fixture(scope="module")
def seeing(make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile-seeing")
    model = seeing_model(make_tiny(architecture="llama"), folder / "model")
    with guard(model, folder, *SETTINGS, *SEEING) as proxy:
        yield Target.of(proxy)


def test_the_corpus_is_large_and_has_no_case_twice() -> None:
    cases = [case for family in CORPUS.values() for case in family]
    assert len({case.sent for case in cases}) >= 300
    assert STRIDES.keys() == CORPUS.keys()


@pytest.mark.parametrize("family", CORPUS)
def test_hostile_requests_are_answered_rightly_and_the_server_never_notices(
    target: Target, family: str
) -> None:
    sample = CORPUS[family][:: STRIDES[family]]
    assert [fault for case in sample for fault in target.attack(case)] == []


def test_hostile_images_are_answered_rightly_and_the_server_never_notices(seeing: Target) -> None:
    sample = list(pictures())[::7]
    assert [fault for case in sample for fault in seeing.attack(case)] == []
