"""Who drafts on rank 0, for layers on several ranks: texts are those without drafts, several at once as well."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.drafting import DraftOptions, SpecType
from powerinfer_cli.opening import bundled_model, drafts
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from tests.helpers.cluster.ranks import engine_of_one, engine_of_ranks
from tests.helpers.families import PROMPT
from tests.helpers.families.guessers import tiny_guesser

OPTIONS = EngineOptions(n_ctx=256, n_threads=1, n_sequences=2)
N = 16


@pytest.mark.parametrize("kind", [SpecType.MODEL, SpecType.MTP])
def test_equal_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: SpecType) -> None:
    """A model that drafts for itself; a recurrent model with a layer that guesses, whose states go back by rank."""
    monkeypatch.setattr(drafts, "_cost", lambda *_: 0.0)
    path = bundled_model() if kind is SpecType.MODEL else tiny_guesser("qwen3next").file.write(tmp_path / "tiny.gguf")
    wished = DraftOptions(kind, path if kind is SpecType.MODEL else None, most=3, p_min=0.0)
    wanted = _texts(engine_of_one(path, OPTIONS))
    with engine_of_ranks(path, 2, OPTIONS, drafts=wished) as engine:
        found = _texts(engine)
        proposed, accepted = (
            sum(getattr(engine.drafted(i), name) for i in range(2)) for name in ("proposed", "accepted")
        )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert proposed > 0
    assert kind is SpecType.MTP or accepted > N


def _texts(engine: Engine) -> list[np.ndarray]:
    """What is likeliest, of two sequences side by side; one is cut back on the way."""
    rows = engine.step([Piece(0, PROMPT[:20]), Piece(1, PROMPT[30:41])])
    found = [*rows]
    for at in range(N):
        if at == N // 2:
            engine.truncate(0, 1)
            rows = [rows[0], engine.step([Piece(1, PROMPT[:12])])[0]]
        rows = engine.step([Piece(i, (int(row.argmax()),), stepwise=True) for i, row in enumerate(rows)])
        found += rows
    return found
