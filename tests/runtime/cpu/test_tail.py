"""Last layers that keep nothing: who passes them, and that it changes no bit of what is told."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.runtime import Engine, Piece, Wanted
from powerinfer_cli.runtime.batch import Batch, Segment
from powerinfer_cli.runtime.cpu.tail import narrowed
from tests.helpers.families import PROMPT, tiny_family


def engine(folder: Path, **options: object) -> Engine:
    return tiny_family("gemma4-small").file.engine(folder, n_ctx=256, **options)


def test_nobody_passes_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers, of which the last two keep nothing; the head is a program more."""
    one = engine(tmp_path, n_ubatch=20)
    team, seen = one._backend.team, list[int]()  # type: ignore[attr-defined]  # of the CPU's
    run = team.run
    monkeypatch.setattr(team, "run", lambda *of: (seen.append(1), run(*of))[1])
    one.step([Piece(0, PROMPT[:20], Wanted.NOTHING)])
    assert len(seen) == 4
    one.step([Piece(0, PROMPT[20:40])])
    assert len(seen) == 4 + 4 + 2 + 1


def test_what_is_told_is_the_same(tmp_path: Path) -> None:
    """Whether all tokens are asked about or a few, and whoever else is there."""
    (every,) = engine(tmp_path).step([Piece(0, PROMPT[:40], Wanted.HIDDEN)])
    assert every is not None
    one = engine(tmp_path)
    one.step([Piece(0, PROMPT[:40], Wanted.NOTHING)])
    for begin, end in ((7, 8), (30, 40), (0, 3), (0, 40)):
        np.testing.assert_array_equal(one._hidden_at(slice(begin, end)), every[begin:end])
    texts = [PROMPT[:30], PROMPT[5:44], PROMPT[20:27]]
    for wishes in ([Wanted.LAST, Wanted.HIDDEN, Wanted.NOTHING], [Wanted.HIDDEN, Wanted.LAST, Wanted.LAST]):
        pieces = [Piece(i, ids, wanted) for i, (ids, wanted) in enumerate(zip(texts, wishes, strict=True))]
        for piece, answer in zip(pieces, engine(tmp_path, n_sequences=3, n_ubatch=128).step(pieces), strict=True):
            (alone,) = engine(tmp_path).step([Piece(0, piece.ids, piece.wanted)])
            if piece.wanted is Wanted.NOTHING:
                assert answer is None
            else:
                assert answer is not None
                assert alone is not None
                np.testing.assert_array_equal(answer, alone)


def test_what_is_narrowed() -> None:
    batch = Batch(np.arange(9, dtype=np.int32), (Segment(2, 0, 4, 10), Segment(0, 4, 5, 0)))
    some = narrowed(batch, [3, 6, 7, 8])
    assert some is not None
    assert some.ids.tolist() == [3, 6, 7, 8]
    assert some.segments == (Segment(2, 0, 1, 13), Segment(0, 1, 3, 2))
    assert narrowed(batch, [0, 2]) is None
