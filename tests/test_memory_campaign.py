"""What the memory campaign counts and draws; it needs a server for the rest."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.bench.turns import End, Heard
from tests.campaign import memory_plot
from tests.campaign.memory_agents import World


def test_a_run_of_agents_counts_what_is_complete_and_what_is_broken() -> None:
    world = World(seed=1, turns=1, seconds=60)
    world.begin()
    heard = Heard(usage={"completion_tokens": 5})
    for end in (End.EMPTY, End.COMPACTED):
        world.saw("turns", heard, end)
    assert not world.over
    world.saw("turns", heard, End.COMPLETE)
    assert world.over
    run = world.result()
    assert (run.turns, run.broken, run.tokens) == (1, 1, 5)


def test_curves_are_drawn_with_a_mark_where_a_server_died() -> None:
    def a_run(*, died: bool) -> dict[str, object]:
        return {"curve": [(0.0, 10), (1.0, 90), (2.0, 0)], "turns": 3, "died": died}

    runs = {"bare": a_run(died=True), "guarded": a_run(died=False)}
    drawn = ElementTree.fromstring(memory_plot.picture({"limit": 100, "seeds": [{"runs": runs}]}))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]
    words = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("✝") == 1
