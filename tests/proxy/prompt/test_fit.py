from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest, PromptTooLong
from proxy.prompt import truncation
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.fit import Fitted, Limits, fit
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt

FREE = Limits(
    max_prompt_tokens=None,
    policy="error",
    keep_tokens=0,
    default_max_tokens=50,
    max_kv_size=None,
    context_length=None,
)


class Letters:
    """A tokenizer of one token per letter and one more per message and note, for arithmetic in one's head.

    With `merging`, neighbouring equal letters over the borders of messages are one token, so that counts do
    not add up, as those of real tokenizers do not.
    """

    def __init__(
        self, *, merging: bool = False, accepts: Callable[[ChatPrompt], bool] = lambda _: True
    ) -> None:
        self.merging, self.accepts, self.counted = merging, accepts, 0

    def render(self, prompt: Prompt) -> str:
        if isinstance(prompt, TextPrompt):
            return prompt.text
        if not self.accepts(prompt):
            raise InvalidRequest("no", param="messages")
        rendered = "".join(f"{message['role'][0].upper()}{message['content']}" for message in prompt.messages)
        rendered = rendered.replace(truncation.NOTE, "N").replace(truncation.NOTE_BEHIND, "N")
        if self.merging:
            while (shorter := rendered.replace("aaa", "a").replace("bU", "U")) != rendered:
                rendered = shorter
        return rendered

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        self.counted += 1
        return len(self.render(prompt))

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        pairs = zip(self.render(prompt), self.render(other), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(self.render(other)))

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        text = prompt.text[:head] + prompt.text[len(prompt.text) - (limit - head) :]
        return TextPrompt(text), len(text)


def chat(script: str, max_tokens: int | None = None) -> CompletionRequest:
    """`s` system, `u` user, `a` assistant, `t` tool; what follows is what they say."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = tuple({"role": roles[line[0]], "content": line[1:]} for line in script.split())
    return CompletionRequest(ChatPrompt(messages), max_tokens=max_tokens)


def script(fitted: Fitted) -> str:
    assert isinstance(fitted.prompt, ChatPrompt)
    said = (message["role"][0] + message["content"] for message in fitted.prompt.messages)
    return " ".join(said).replace(truncation.NOTE, "N").replace(truncation.NOTE_BEHIND, "N")


async def refusal(request: CompletionRequest, limits: Limits) -> PromptTooLong:
    with pytest.raises(PromptTooLong) as caught:
        await fit(request, Letters(), limits)
    return caught.value


async def test_a_prompt_within_the_limit_is_left_alone() -> None:
    fitted = await fit(chat("u123"), Letters(), replace(FREE, max_prompt_tokens=4))
    assert fitted == Fitted(chat("u123").prompt, 4, 50, False, 0, 0)


@pytest.mark.parametrize(
    ("asked", "room", "expected", "clamped"),
    [
        (None, None, 50, False),
        (None, 24, 20, False),  # nobody asked for the default, so it is not worth a word
        (10, 24, 10, False),
        (20, 24, 20, False),
        (21, 24, 20, True),
        (10**9, 24, 20, True),
        (10**9, None, 10**9, False),
        (10**9, 5, 1, True),
    ],
)
async def test_max_tokens(asked: int | None, room: int | None, expected: int, clamped: bool) -> None:
    fitted = await fit(chat("u123", asked), Letters(), replace(FREE, context_length=room))
    assert (fitted.max_tokens, fitted.clamped) == (expected, clamped)


async def test_the_smaller_of_context_and_kv_size_is_the_room() -> None:
    fitted = await fit(chat("u123", 99), Letters(), replace(FREE, context_length=40, max_kv_size=30))
    assert fitted.max_tokens == 26


async def test_a_refusal_has_exact_numbers() -> None:
    error = await refusal(chat("s12345 u12345", 7), replace(FREE, max_prompt_tokens=11))
    assert "12 tokens > 11 maximum" in error.message
    assert "19 tokens (12 in the messages, 7 in the completion)" in error.message
    assert error.param == "messages"


async def test_no_room_for_one_token_is_an_overflow() -> None:
    assert (await refusal(chat("u123"), replace(FREE, context_length=4))).limit == 3
    assert (await fit(chat("u123"), Letters(), replace(FREE, context_length=5))).max_tokens == 1


async def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tokens"):  # the server's generation thread dies of it
        await fit(CompletionRequest(TextPrompt("")), Letters(), FREE)


CUTTING = replace(FREE, policy="truncate", max_prompt_tokens=13)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("s0 u1 a1 u2 a2 u3 a3 u4", "s0 uN2 a2 u3 a3 u4"),
        ("u1 a1 t1 t1 a1 u2 a2 t2 a2 u3", "uN2 a2 t2 a2 u3"),
        ("s0 u12345678 u3 a4 u5", "s0 uN5"),
        ("u1 a1 u12345 a12345 u3", "uN3"),
        ("a12345678 u1 a2 u3", "uN1 a2 u3"),
        # An agent's task is one turn: its rounds go, but not what was asked, nor the last of them.
        ("s0 u1 a1 u2 a3 t3 a4 t4 a5 t5", "s0 uN2 a4 t4 a5 t5"),
        ("s0 u1 a3 t3456789 a4 t4 t4 a5", "s0 uN1 a4 t4 t4 a5"),
        ("u1 a1 a1 t1 a2 a3 t3 t4", "uN1 a2 a3 t3 t4"),
    ],
)
async def test_oldest_turns_go_first(before: str, after: str) -> None:
    fitted = await fit(chat(before), Letters(), CUTTING)
    assert script(fitted) == after
    assert fitted.dropped_messages == len(before.split()) - len(after.split())
    assert fitted.dropped_tokens == len(before.replace(" ", "")) - fitted.prompt_tokens
    assert fitted.positions is not None
    words = before.split()
    assert [words[i] for i in fitted.positions] == after.replace("N", "").split()


def alternating(prompt: ChatPrompt) -> bool:
    """No user speaks twice in a row, and no assistant, as some templates insist."""
    roles = [message["role"] for message in prompt.messages if message["role"] in {"user", "assistant"}]
    return roles[:1] == ["user"] and not any(role == before for before, role in pairwise(roles))


@pytest.mark.parametrize(
    ("keep", "after", "after_strictly"),
    [
        (0, "s0 uN3 a3 u4", "s0 uN3 a3 u4"),
        (2, "s0 uN3 a3 u4", "s0 uN3 a3 u4"),
        (3, "s0 uN3 a3 u4", "s0 uN3 a3 u4"),  # the user's name tag is there all the same
        (4, "s0 u1 uN3 a3 u4", "s0 u1 a1 uN4"),
        (5, "s0 u1 a1 uN4", "s0 u1 a1 uN4"),
        (6, "s0 u1 a1 uN4", "s0 u1 a1 uN4"),
    ],
)
async def test_the_first_tokens_are_kept_in_whole_messages(
    keep: int, after: str, after_strictly: str
) -> None:
    """And in whole turns where the template would not have a user after a user."""
    limits = replace(CUTTING, keep_tokens=keep, max_prompt_tokens=11 if keep == 4 else 9)
    request = chat("s0 u1 a1 u2 a2 u3 a3 u4")
    assert script(await fit(request, Letters(), limits)) == after
    limits = replace(limits, max_prompt_tokens=9)
    assert script(await fit(request, Letters(accepts=alternating), limits)) == after_strictly


@pytest.mark.parametrize(
    ("keep", "after"),
    [
        (0, "s0 uN1 a5 t5 a6 t6"),
        (1, "s0 uN1 a5 t5 a6 t6"),
        (4, "s0 u1N a5 t5 a6 t6"),
        (6, "s0 u1N a2 t2 a6 t6"),
        (8, "s0 u1N a2 t2 a6 t6"),
    ],
)
async def test_the_first_tokens_of_an_agents_only_turn_are_kept(keep: int, after: str) -> None:
    limits = replace(CUTTING, keep_tokens=keep, max_prompt_tokens=13)
    request = chat("s0 u1 a2 t2 a3 t3 a4 t4 a5 t5 a6 t6")
    assert script(await fit(request, Letters(), limits)) == after


@pytest.mark.parametrize(
    ("before", "limits"),
    [
        ("s0123456 u0123456", CUTTING),
        ("u1 a1 u0123456789 a2 t3", CUTTING),  # the last round stays whole
        ("u1 a1 u2 a3 t3 a4 t45678901", CUTTING),
        ("s0123456789abcdef", CUTTING),
        ("u1 a1 u2 a2 u3 a3 u4 a4 u5", replace(CUTTING, keep_tokens=9)),
        ("u1 a1 u2 a2 u3 a3 u4 a4 u5", replace(CUTTING, keep_tokens=99)),
    ],
)
async def test_what_must_stay_and_does_not_fit_is_refused(before: str, limits: Limits) -> None:
    limits = replace(limits, max_prompt_tokens=8 if limits.keep_tokens else 12)
    error = await refusal(chat(before), limits)
    assert error.prompt_tokens == len(before.replace(" ", ""))
    assert error.limit == limits.max_prompt_tokens


async def test_a_cut_leaves_room_to_answer() -> None:
    limits = replace(CUTTING, max_prompt_tokens=None, context_length=16)
    fitted = await fit(chat("u1 a1 u2 a2 u3 a3 u4 a4"), Letters(), limits)
    assert (fitted.prompt_tokens, fitted.max_tokens) == (13, 3)


async def test_a_last_turn_that_fits_alone_is_served_with_what_room_is_left() -> None:
    limits = replace(CUTTING, max_prompt_tokens=None, context_length=16)
    fitted = await fit(chat("u12345 a1 u12345678901234"), Letters(), limits)
    assert (fitted.prompt_tokens, fitted.max_tokens) == (15, 1)


async def test_a_cut_that_the_template_refuses_is_not_taken() -> None:
    def accepts(prompt: ChatPrompt) -> bool:
        return bool(prompt.messages[0]["content"] != truncation.NOTE + "2")

    fitted = await fit(chat("u1 a1 u2 a2 u3 a3 u4 a4"), Letters(accepts=accepts), CUTTING)
    assert script(fitted) == "uN3 a3 u4 a4"


async def test_texts_keep_their_head_and_their_tail() -> None:
    request = CompletionRequest(TextPrompt("0123456789abcdef"))
    fitted = await fit(request, Letters(), replace(CUTTING, keep_tokens=3, max_prompt_tokens=12))
    assert fitted.prompt == TextPrompt("012789abcdef")
    assert (fitted.prompt_tokens, fitted.dropped_tokens, fitted.dropped_messages) == (12, 4, 0)
    assert (await refusal(request, CUTTING_ALL_HEAD)).param == "prompt"


CUTTING_ALL_HEAD = replace(CUTTING, keep_tokens=13)


async def test_few_counts_are_taken() -> None:
    letters = Letters()
    await fit(
        chat(" ".join(f"u{i} a{i}" for i in range(500))), letters, replace(CUTTING, max_prompt_tokens=900)
    )
    assert letters.counted <= 6


turns = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 3), st.integers(0, 12)).map(
        lambda t: [("u", "a" * t[2])] * t[0] + [("a", "b" * t[2]), ("t", "a"), ("t", "")][: t[1]]
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=400, deadline=None)
@given(
    turns=turns,
    system=st.integers(0, 2),
    limit=st.integers(1, 120),
    keep=st.sampled_from([0, 0, 5, 40]),
    merging=st.booleans(),
    trim=st.booleans(),
)
async def test_properties_of_a_cut(  # noqa: PLR0917
    turns: list[Any], system: int, limit: int, keep: int, merging: bool, trim: bool
) -> None:
    """Never over the limit, what is asked kept, calls with their results whole, in order, idempotent."""
    lines = ["srules"] * system + [kind + text for turn in turns for kind, text in turn]
    request, letters = chat(" ".join(lines)), Letters(merging=merging)
    assert isinstance(request.prompt, ChatPrompt)
    limits = replace(CUTTING, max_prompt_tokens=limit, keep_tokens=keep, trim_tool_output=trim)
    messages = request.prompt.messages
    before = truncation.split(messages)
    last = [*before.opening, *(before.rounds[-1] if before.rounds else before.turns[-1])]
    full = await letters.count(request.prompt)
    try:
        fitted = await fit(request, letters, limits)
    except PromptTooLong as error:
        least = [messages[i] for i in dict.fromkeys([*before.lead, *last])]
        assert keep or await letters.count(replace(request.prompt, messages=tuple(least))) > limit
        assert error.prompt_tokens == full
        return
    assert isinstance(fitted.prompt, ChatPrompt)
    assert fitted.prompt_tokens == await letters.count(fitted.prompt) <= limit
    stay = fitted.positions or tuple(range(len(messages)))
    assert list(stay) == sorted(stay)
    assert {*before.lead, *last} <= set(stay)
    for index, message in enumerate(messages):
        assert message["role"] != "tool" or (index in stay) == (index - 1 in stay), "calls have their results"
    parted = [turn for turn in before.turns[:-1] if 0 < len(set(turn) & set(stay)) < len(turn)]
    assert len(parted) <= bool(keep), "turns are whole, but the one that the first tokens end in"
    for index, message in zip(stay, fitted.prompt.messages, strict=True):
        said = message["content"].replace(truncation.NOTE, "", 1).replace(truncation.NOTE_BEHIND, "", 1)
        assert (message["role"], said) == (messages[index]["role"], messages[index]["content"])
    notes = [i for i, message in enumerate(fitted.prompt.messages) if truncation.NOTE in message["content"]]
    assert len(notes) <= (len(stay) < len(messages))
    assert await letters.shared(request.prompt, fitted.prompt) >= min(keep, fitted.prompt_tokens)
    assert await fit(replace(request, prompt=fitted.prompt), letters, limits) == replace(
        fitted, dropped_messages=0, dropped_tokens=0, positions=None
    )


@pytest.mark.parametrize("merging", [False, True])
async def test_consecutive_turns_of_a_session_share_their_prefix(merging: bool) -> None:
    letters, limits = Letters(merging=merging), replace(CUTTING, max_prompt_tokens=2000)
    history, shared = ["srules"], 0
    before: tuple[Any, ...] = ()
    for turn in range(100):
        history.append(f"u{turn:03}" + "q" * 40)
        fitted = await fit(chat(" ".join(history)), letters, limits)
        after = fitted.prompt.messages  # type: ignore[union-attr]
        shared += after[: len(before)] == before
        before = after
        history.append("a" + "x" * 55)
    assert shared >= 90


async def test_one_request_of_a_refused_conversation_may_be_longer() -> None:
    limits = replace(FREE, max_prompt_tokens=10, compaction_headroom=4)
    letters, refusals = Letters(), OverflowHistory()

    async def fits(said: str, limits: Limits = limits) -> bool:
        try:
            await fit(chat(said), letters, limits, refusals=refusals, now=1.0)
        except PromptTooLong as error:
            assert error.limit == limits.longest_prompt, "agents are told the limit that holds for them"
            return False
        return True

    assert not await fits("s1 u1 a2 u34567890")
    assert not await fits("s1 u1 a2 u34567890")
    assert not await fits("s1 u1 a2 u345 a6 u789abcdef"), "more than the headroom"
    assert not await fits("s1 u1 a2 u34567 a8", replace(limits, context_length=12)), "more than there is"
    assert await fits("s1 u1 a2 u345 a8 uS")
    assert not await fits("s1 u1 a2 u345 a8 u9")


@pytest.mark.parametrize(
    ("limits", "longest"),
    [
        (FREE, None),
        (replace(FREE, compaction_headroom=9), None),
        (replace(FREE, max_prompt_tokens=100, compaction_headroom=9), 109),
        (replace(FREE, max_prompt_tokens=100, compaction_headroom=9, fits_alone=105), 105),
        (replace(FREE, max_prompt_tokens=100, compaction_headroom=9, fits_alone=50), 100),
        (replace(FREE, max_prompt_tokens=100, compaction_headroom=9, context_length=105), 104),
        (replace(FREE, max_prompt_tokens=100, compaction_headroom=9, max_kv_size=50), 49),
        (replace(FREE, context_length=100, compaction_headroom=9, fits_alone=50), 99),
    ],
)
async def test_the_longest_compaction_fits_alone(limits: Limits, longest: int | None) -> None:
    assert limits.longest_compaction == longest


async def test_without_headroom_nothing_is_longer() -> None:
    limits, refusals = replace(FREE, max_prompt_tokens=6), OverflowHistory()
    for said in ("u1 a2 u345", "u1 a2 u345 a6", "u1 a2 u345 uS"):
        with pytest.raises(PromptTooLong):
            await fit(chat(said), Letters(), limits, refusals=refusals, now=1.0)


async def test_old_tool_results_are_shortened_where_dropping_turns_is_not_enough() -> None:
    limits = replace(CUTTING, max_prompt_tokens=3000, trim_tool_output=True)
    said = f"u1 a1 u2 a3 t{'x' * 5000} a4 t{'y' * 900} a5 t{'z' * 800}"
    fitted = await fit(chat(said), Letters(), limits)
    assert isinstance(fitted.prompt, ChatPrompt)
    sizes = [len(message["content"]) for message in fitted.prompt.messages[2::2]]
    assert sizes == [1024, 900, 800]
    assert (fitted.dropped_messages, fitted.positions) == (2, (2, 3, 4, 5, 6, 7, 8))
    untrimmed = await fit(chat(said), Letters(), replace(limits, trim_tool_output=False))
    assert script(untrimmed) == f"uN2 a4 t{'y' * 900} a5 t{'z' * 800}"


FAR = [
    ({"tools": ({"type": "function", "function": {"name": "f", "description": "x" * 1_100_000}},)}, "u1"),
    ({}, "u" + "x" * 1_100_000),
]


@pytest.mark.parametrize(("fields", "said"), FAR)
async def test_a_prompt_far_over_the_limit_is_refused_before_it_is_counted(
    fields: dict[str, Any], said: str
) -> None:
    request = chat(said)
    assert isinstance(request.prompt, ChatPrompt)
    request = replace(request, prompt=replace(request.prompt, **fields))
    letters = Letters()
    with pytest.raises(PromptTooLong) as caught:
        await fit(request, letters, replace(FREE, max_prompt_tokens=1000))
    assert letters.counted == 0
    assert caught.value.prompt_tokens > 300_000


async def test_the_arguments_of_calls_count_as_well() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "x" * 1_100_000}}
    messages = ({"role": "user", "content": "1"}, {"role": "assistant", "content": "", "tool_calls": [call]})
    letters = Letters()
    with pytest.raises(PromptTooLong):
        await fit(CompletionRequest(ChatPrompt(messages)), letters, replace(FREE, max_prompt_tokens=1000))
    assert letters.counted == 0


async def test_what_may_fit_or_can_be_cut_is_counted() -> None:
    letters, long = Letters(), chat("u" + "x" * 1_100_000)
    await fit(long, letters, FREE)
    with pytest.raises(PromptTooLong):
        await fit(long, letters, replace(FREE, max_prompt_tokens=50_000))
    with pytest.raises(PromptTooLong):
        await fit(long, letters, replace(FREE, max_prompt_tokens=1000, policy="truncate"))
    assert letters.counted >= 3
