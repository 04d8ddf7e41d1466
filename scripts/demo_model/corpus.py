"""Documents for training and for held-out measurement: stories and chats, seeded."""

import random
from collections.abc import Iterator

from scripts.demo_model.chat import converse, segments
from scripts.demo_model.grammar import tell
from scripts.demo_model.roll_calls import roll_call
from scripts.demo_model.vocabulary import EOS, Vocabulary

CHAT_SHARE = 0.45


def documents(seed: int, *, held_out: bool = False) -> Iterator[list[str]]:
    """Endless documents, each cut into texts and control tokens. The same seed gives the same documents."""
    rng = random.Random(f"{seed}-{held_out}")
    while True:
        if rng.random() < CHAT_SHARE:
            yield segments(converse(rng, held_out=held_out))
        else:
            yield [tell(rng, held_out=held_out).text]


def roll_calls(seed: int) -> Iterator[list[str]]:
    """Endless roll calls, as documents."""
    rng = random.Random(f"roll calls-{seed}")
    while True:
        yield [roll_call(rng)]


def stories(seed: int, *, held_out: bool) -> Iterator[str]:
    """Endless story texts."""
    rng = random.Random(f"stories-{seed}-{held_out}")
    while True:
        yield tell(rng, held_out=held_out).text


def token_ids(document: list[str], vocabulary: Vocabulary) -> list[int]:
    """Ids with <s> in front, and </s> behind a bare story (a chat ends with its own end token)."""
    ids = vocabulary.encode(document)
    return [*ids, EOS] if len(document) == 1 else ids
