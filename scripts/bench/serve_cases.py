"""What `serve.py` measures on one server, and how its figures follow. Requests are the same for any server."""

import asyncio
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scripts.clients.http import Answer, ask, events

__all__ = ["EXPERT_FIGURES", "FIGURES", "Figure", "Found", "first_token", "result", "streams"]

SHORT, LONG = 16, 500  # tokens of a prompt
FIRST_WORD = 300  # the first id to draw prompts from: below are bytes and control tokens


@dataclass(frozen=True)
class Figure:
    """A line of the table: `ours` over `other` must be at least `target`; of milliseconds, `ours` be less than that."""

    what: str
    ours: str
    other: str
    target: float
    unit: str = "tokens/s"


@dataclass(frozen=True)
class Found:
    """A figure's outcome; `other` and the ratio, ours over other, are None where only ours was measured."""

    figure: Figure
    ours: float
    other: float | None
    ratio: float | None
    met: bool


FIGURES = (
    Figure("one stream, beside `powerinfer bench`", "ours, 1 stream", "bench", 0.95),
    Figure("one stream, beside llama-server", "ours, 1 stream", "theirs, 1 stream", 1.0),
    Figure("first token of a cached prompt of 500", "ours, first token", "theirs, first token", 150, "ms"),
    Figure("4 streams, all tokens", "ours, 4 streams", "theirs, 4 streams", 1.8),
    Figure("8 streams, all tokens", "ours, 8 streams", "theirs, 8 streams", 1.8),
)

EXPERT_FIGURES = tuple(replace(one, target=1.5) if one.target == 1.8 else one for one in FIGURES)


def prompt(seed: int, length: int, n_vocab: int) -> list[int]:
    """Tokens that no other seed begins with."""
    draw = random.Random(seed)
    return [draw.randrange(FIRST_WORD, n_vocab) for _ in range(length)]


def completion(tokens: list[int], n_predict: int) -> dict[str, object]:
    """A greedy request of exactly `n_predict` tokens."""
    return {
        "prompt": tokens,
        "n_predict": n_predict,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": True,
        "stream": True,
    }


def tokens_of(answer: Answer) -> int:
    """How many tokens the last event counts. Raises RuntimeError for anything but a full answer."""
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {answer.body[:300]!r}")
    last = json.loads([event for event in events(answer.body) if event != b"[DONE]"][-1])
    return int(last["tokens_predicted"])


async def streams(port: int, count: int, n_predict: int, seed: int, n_vocab: int) -> float:
    """Tokens a second of `count` streams at a time: alone, from the first token on; of several, all that it takes."""
    bodies = [completion(prompt(seed * 1000 + i, SHORT, n_vocab), n_predict) for i in range(count)]
    answers = await asyncio.gather(*(ask(port, "/completion", body) for body in bodies))
    total = sum(map(tokens_of, answers))
    if total != count * n_predict:
        raise RuntimeError(f"{total} tokens came, not {count} times {n_predict}")
    if count == 1:
        return (total - 1) / (answers[0].last - answers[0].first)
    return total / max(answer.last for answer in answers)


async def first_token(port: int, repeats: int, seed: int, n_vocab: int) -> float:
    """Milliseconds until a cached prompt's first event: the median of some, behind one that fills the cache."""
    body = completion(prompt(seed * 1000 + 999, LONG, n_vocab), 2)
    waits = []
    for _ in range(repeats + 1):
        answer = await ask(port, "/completion", body)
        tokens_of(answer)
        waits.append(answer.first * 1000)
    return statistics.median(waits[1:])


def result(figure: Figure, samples: Mapping[str, Sequence[float]]) -> Found | None:
    """Medians over the rounds; None where what the target is about was not measured."""
    absolute = figure.unit == "ms"
    if not samples.get(figure.ours) or not (absolute or samples.get(figure.other)):
        return None
    ours = statistics.median(samples[figure.ours])
    other = statistics.median(samples[figure.other]) if samples.get(figure.other) else None
    ratio = None if other is None else ours / other
    met = ours < figure.target if ratio is None or absolute else ratio >= figure.target
    return Found(figure, ours, other, ratio, met)
