"""The story grammar: reproducible, well-formed, consistent, and with a held-out part that training never sees."""

import itertools
import random
import re

import jinja2
import pytest

from scripts.demo_model.chat import CHAT_TEMPLATE, CONTROL_TOKENS, converse, segments
from scripts.demo_model.corpus import documents, stories
from scripts.demo_model.grammar import PLOTS, Story, count_choices, count_stories, expand, is_held_out, tell
from scripts.demo_model.roll_calls import roll_call


@pytest.fixture(scope="module")
def told() -> list[Story]:
    rng = random.Random(5)
    return [tell(rng, plots=(plot,)) for plot in PLOTS for _ in range(40)]


def test_the_same_seed_gives_the_same_corpus() -> None:
    def first(seed: int) -> list[list[str]]:
        return list(itertools.islice(documents(seed), 50))

    assert first(4) == first(4)
    assert first(4) != first(5)


def test_every_plot_is_well_formed(told: list[Story]) -> None:
    for story in told:
        assert not re.search(r"[{}\[\]|]|  |\(n\)", story.text), story.text
        assert story.text.count('"') % 2 == 0, story.text
        assert story.text[-1] in ".!", story.text
        assert 80 <= len(story.text.split()) <= 230, story.text
        assert not re.search(r"\ba [aeio]|\ban [^aeiouh]", story.text), story.text
        assert not re.search(r"[.!?] [a-z]", story.text), story.text


def test_characters_are_told_apart(told: list[Story]) -> None:
    for story in told:
        assert len({story.slots[key] for key in ("name", "fname", "oname")}) == 3
        assert len({story.slots[key] for key in ("kind", "fkind", "okind")}) == 3
        assert story.slots["name"] in story.text.split("\n")[0]
        assert story.slots.get("villain") not in (story.slots["kind"], story.slots["fkind"], story.slots["okind"])


def test_answers_speak_of_the_story(told: list[Story]) -> None:
    """Every proper name in an answer occurs in its story."""
    for story in told:
        for question, answer in story.questions:
            assert question.endswith("?")
            assert answer[-1] in '."!'
            for key in ("name", "fname", "oname"):
                name = story.slots[key]
                assert name not in answer or name in story.text


def test_held_out_stories_are_not_in_training() -> None:
    rng = random.Random(2)
    assert not any(is_held_out(story.slots, story.plot) for story in (tell(rng) for _ in range(300)))
    assert all(is_held_out(story.slots, story.plot) for story in (tell(rng, held_out=True) for _ in range(20)))
    training = set(itertools.islice(stories(1, held_out=False), 1000))
    assert training.isdisjoint(itertools.islice(stories(1, held_out=True), 30))
    assert len(training) == 1000, "a story came twice"


def test_choices_are_counted() -> None:
    assert count_choices("plain") == 1
    assert count_choices("[a|b] and [c|d|]") == 6
    assert count_choices("[a [b|c]|d]") == 3
    template = "[x|y [1|2|3]] [p|q]"
    rng = random.Random(0)
    assert len({expand(template, {}, rng) for _ in range(500)}) == count_choices(template) == 8
    assert count_stories() > 10**30


def test_articles_and_capitals() -> None:
    rng = random.Random(0)
    said = expand('a(n) {kind} met a(n) honest fox. "who?" it asked. the end', {"kind": "owl"}, rng)
    assert said == 'An owl met an honest fox. "Who?" it asked. The end'


def test_chats_are_what_the_template_renders() -> None:
    rng = random.Random(8)
    render = jinja2.Environment().from_string(CHAT_TEMPLATE).render
    for _ in range(60):
        turns = converse(rng)
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        parts = segments(turns)
        assert render(messages=messages) == "".join(parts)
        assert messages[-1]["role"] == "assistant"
        assert not any(token in turn.content for token in CONTROL_TOKENS for turn in turns)
        roles = [turn.role for turn in turns if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert render(messages=[{"role": "user", "content": "Hi"}], add_generation_prompt=True) == (
        "<|user|>\nHi<|end|>\n<|assistant|>\n"
    )


def test_roll_calls_say_few_names_often() -> None:
    rng = random.Random(3)
    for _ in range(50):
        text = roll_call(rng)
        assert not re.search(r"[{}\[\]|]|  |\(n\)", text), text
        assert text[-1] in '.!"', text
