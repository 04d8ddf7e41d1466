"""What happens to several sequences of an engine: in company, and each alone."""

from dataclasses import dataclass

import numpy as np

from powerinfer_cli.runtime import Engine, Piece, Wanted
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB

LONGEST = 30  # tokens of a piece


@dataclass(frozen=True)
class Append:
    """Pieces of one step: ids by sequence."""

    ids: dict[int, list[int]]


@dataclass(frozen=True)
class Truncate:
    sequence: int
    n: int


@dataclass(frozen=True)
class Shift:
    sequence: int
    n_keep: int
    n_discard: int


Event = Append | Truncate | Shift
Told = dict[int, list[np.ndarray]]  # by sequence: the logits behind each token appended, in order


def some_events(n_sequences: int, longest: int, count: int, seed: int = 3) -> list[Event]:
    """Steps of a token for some and a piece of a prompt for one; now and then a sequence loses its end or its middle.

    longest: most tokens of a sequence.
    """
    random, held, events = np.random.default_rng(seed), [0] * n_sequences, list[Event]()
    for turn in range(count):
        sequence = int(random.integers(n_sequences))
        if turn % 6 == 5 and held[sequence] > 4:
            n_keep, n = int(random.integers(3)), int(random.integers(1, held[sequence] // 2 + 1))
            n_discard = min(n, held[sequence] - n_keep)
            events.append(Shift(sequence, n_keep, n_discard) if turn % 12 == 11 else Truncate(sequence, n))
            held[sequence] = held[sequence] - n_discard if turn % 12 == 11 else n
            continue
        chosen = random.permutation(n_sequences)[: random.integers(1, n_sequences + 1)].tolist()
        sizes = dict.fromkeys(chosen, 1) | {chosen[-1]: int(random.integers(1, LONGEST))}
        ids = {i: random.integers(0, N_VOCAB, n).tolist() for i, n in sizes.items() if held[i] + n <= longest}
        for i, own in ids.items():
            held[i] += len(own)
        if ids:
            events.append(Append(ids))
    return events


def together(engine: Engine, events: list[Event]) -> Told:
    """As they come."""
    told: Told = {i: [] for i in range(engine.n_sequences)}
    for event in events:
        if isinstance(event, Append):
            pieces = [Piece(i, ids, Wanted.ALL if i % 2 else Wanted.LAST) for i, ids in event.ids.items()]
            for piece, answer in zip(pieces, engine.step(pieces), strict=True):
                assert answer is not None
                told[piece.sequence].append(answer.reshape(-1, N_VOCAB)[-1])
        elif isinstance(event, Truncate):
            engine.truncate(event.n, event.sequence)
        else:
            engine.shift(event.n_keep, event.n_discard, event.sequence)
    return told


def alone(engine: Engine, events: list[Event], n_sequences: int) -> Told:
    """One sequence after the other, from an empty context, in the engine's first."""
    told: Told = {}
    for sequence in range(n_sequences):
        engine.reset()
        told[sequence] = []
        for event in events:
            if isinstance(event, Append):
                if sequence in event.ids:
                    told[sequence].append(engine.prefill(event.ids[sequence]))
            elif event.sequence == sequence:
                if isinstance(event, Truncate):
                    engine.truncate(event.n)
                else:
                    engine.shift(event.n_keep, event.n_discard)
    return told


def assert_same(found: Told, wanted: Told) -> None:
    """The same logits within 1e-4, and the same greedy tokens."""
    assert found.keys() == wanted.keys()
    for sequence, rows in wanted.items():
        assert len(rows) > 3
        check_logits(np.stack(found[sequence]), np.stack(rows))
        assert [int(row.argmax()) for row in found[sequence]] == [int(row.argmax()) for row in rows]
