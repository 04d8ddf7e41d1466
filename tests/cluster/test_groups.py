"""Texts of a server whose layers are on two ranks: both are at work at once, and the texts are one machine's."""

from collections.abc import Callable, Sequence

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.opening import bundled_model
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from powerinfer_cli.runtime.step import Answer
from powerinfer_cli.serving.tasks import CompletionTask, TextPiece
from tests.helpers.families import PROMPT
from tests.helpers.ranks import engine_of_ranks
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


def test_equal_to_the_bit() -> None:
    wanted, one = written(Engine.load(open_gguf(bundled_model()), OPTIONS))
    with engine_of_ranks(bundled_model(), 2, OPTIONS) as engine:
        found, both = written(engine)
    assert (one, both) == (1, 2)
    assert found == wanted
