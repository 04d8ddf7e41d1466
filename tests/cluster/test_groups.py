"""Texts of a server whose layers are on two ranks: both are at work at once, and the texts are one machine's."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from powerinfer_cli.drafting import draft_options
from powerinfer_cli.opening import bundled_model
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from powerinfer_cli.runtime.step import Answer
from powerinfer_cli.serving.slots.grouping import Grouping
from powerinfer_cli.serving.tasks import CompletionTask, TextPiece
from tests.helpers.cluster.ranks import engine_of_one, engine_of_ranks
from tests.helpers.families import PROMPT
from tests.serving.slots.toy import GREEDY, Driver

OPTIONS = EngineOptions(n_ctx=4 * 128, n_threads=1, n_sequences=4)
PROMPTS = [tuple(PROMPT[i : i + n]) for i, n in enumerate((5, 40, 1, 17))]


class Watched:
    """An engine; most: steps that were on their way at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._there, self.most = engine, 0, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def begin(self, pieces: Sequence[Piece]) -> Callable[[], list[Answer]]:
        take = self._engine.begin(pieces)
        self._there += 1
        self.most = max(self.most, self._there)

        def taken() -> list[Answer]:
            self._there -= 1
            return take()

        return taken


def written(engine: Engine) -> tuple[list[list[tuple[int, float]]], int]:
    """Tokens with what their chances are, and steps at once; a text that is saved on the way changes nothing."""
    watched = Watched(engine)
    driver = Driver(watched)
    asked = [driver.add(CompletionTask(prompt, GREEDY, n_predict=16, n_probs=3)) for prompt in PROMPTS]
    driver.run(10)
    engine.save(0)
    driver.run()
    pieces = [[one for one in driver.events[i] if isinstance(one, TextPiece)] for i in asked]
    found = [[(each.chosen.id, each.chosen.logprob) for one in text for each in one.chances] for text in pieces]
    assert [len(text) for text in found] == [16] * 4
    return found, watched.most


@pytest.mark.parametrize("drafting", [False, True])
def test_equal_to_the_bit(drafting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With drafts as well, each group's of its own texts; in as many groups as there may be, whatever is faster."""
    monkeypatch.setattr(Grouping, "groups", lambda grouping, left: grouping._most)
    drafts = draft_options("ngram", None, size_n=1) if drafting else None
    wanted, one = written(engine_of_one(bundled_model(), OPTIONS))
    with engine_of_ranks(bundled_model(), 2, OPTIONS, drafts=drafts) as engine:
        found, both = written(engine)
        proposed = [engine.drafted(i).proposed > 0 for i in range(4)]
    assert (one, both) == (1, 2)
    assert found == wanted
    assert any(proposed) == drafting


def test_a_draft_on_its_way_may_be_taken_back() -> None:
    """While another sequence's step is on its way, too."""
    drafts = draft_options("ngram", None, size_n=1, size_m=3)
    text = [306, 5, 306, 5, 306]
    one = engine_of_one(bundled_model(), OPTIONS)
    one.step([Piece(0, text), Piece(1, text[:3])])
    wanted = one.step([Piece(0, (5,), stepwise=True)])[0], one.step([Piece(1, (5,), stepwise=True)])[0]
    with engine_of_ranks(bundled_model(), 2, OPTIONS, drafts=drafts) as engine:
        engine.step([Piece(0, text), Piece(1, text[:3])])
        takes = [engine.begin([Piece(i, (5,), stepwise=True)]) for i in range(2)]
        assert engine.drafted(0).proposed > 0
        assert engine.tokens_of(0) == [*text, 5]
        assert engine.ahead(0, 306) is None  # nobody knows yet what comes behind it
        assert engine.truncate(4, 0) == 4
        for take, logits in zip(takes, wanted, strict=True):
            np.testing.assert_array_equal(take()[0], logits)
        assert engine.tokens_of(0) == text[:4]
        found = engine.step([Piece(0, (306,))])[0]
    one.truncate(4, 0)
    np.testing.assert_array_equal(found, one.step([Piece(0, (306,))])[0])
