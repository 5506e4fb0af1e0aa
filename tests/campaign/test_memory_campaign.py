"""What the memory campaign counts and draws; it needs a server for the rest."""

from __future__ import annotations

import asyncio
import itertools
from xml.etree import ElementTree

from tests.bench.turns import End, Heard
from tests.campaign import memory_plot
from tests.campaign.memory_world import World, take_turns


def test_a_run_of_agents_counts_what_is_complete_and_what_is_broken() -> None:
    world = World(seed=1, turns=1, seconds=60)
    heard = Heard(usage={"completion_tokens": 5})
    for end in (End.EMPTY, End.COMPACTED):
        world.saw("turns", heard, end)
    assert not world.over
    world.saw("turns", heard, End.COMPLETE)
    assert world.over
    run = world.result()
    assert (run.turns, run.broken, run.tokens) == (1, 1, 5)


async def test_sides_work_by_turns_and_their_clocks_stand_still_meanwhile() -> None:
    worlds = [World(seed=number, turns=10**9, seconds=0.2) for number in range(2)]
    out: list[World] = []

    async def work(world: World) -> None:
        while not world.over:
            async with world.asking():
                out.append(world)
                assert all(other.rests for other in worlds if other is not world)
                await asyncio.sleep(0.01)

    working = [asyncio.create_task(work(world)) for world in worlds]
    await take_turns(worlds, 0.06)
    await asyncio.gather(*working)
    changes = sum(one is not other for one, other in itertools.pairwise(out))
    assert changes >= 3
    assert all(0.2 <= world.now() < 1 for world in worlds)


def test_curves_are_drawn_with_a_mark_where_a_server_died() -> None:
    def a_run(*, died: bool) -> dict[str, object]:
        return {"curve": [(0.0, 10), (1.0, 90), (2.0, 0)], "turns": 3, "died": died}

    runs = {"bare": a_run(died=True), "guarded": a_run(died=False)}
    drawn = ElementTree.fromstring(memory_plot.picture({"limit": 100, "seeds": [{"runs": runs}]}))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]
    assert len(drawn.findall("{http://www.w3.org/2000/svg}path")) == 1
    words = [each.text or "" for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "dies in turn 4" in words
    assert sum(each.endswith(", then dead") for each in words) == 1
