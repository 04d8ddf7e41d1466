"""A batcher on the toy engine, driven step by step, with what it tells each task."""

from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.slots.batching import Batcher
from powerinfer_cli.serving.slots.counters import ServedRequest
from powerinfer_cli.serving.slots.prompt_cache import PromptCache
from powerinfer_cli.serving.slots.slot import SlotRequest
from powerinfer_cli.serving.tasks import Event, Failed, Finished, SlotDone, Task, TextPiece, Vectors
from powerinfer_cli.text import Tokenizer
from tests.helpers.toy_engine import ToyEngine

GREEDY = SamplerOptions(temp=0.0, penalty_repeat=1.0)
FINAL = (Finished, Vectors, SlotDone, Failed)
MODEL = Path(__file__).parents[3] / "powerinfer_cli/bundled/storyteller.powerinfer.gguf"


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(MODEL)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().encode(text, add_special=False))


class Driver:
    """events: by task; tokens, text: of one of them; ended: ids in the order of their ends."""

    def __init__(self, engine: ToyEngine, *, context_shift: bool = False, cache: PromptCache | None = None) -> None:
        self.engine = engine
        self.events: dict[int, list[Event]] = {}
        self.log: list[ServedRequest] = []
        self.ended: list[int] = []
        self._ids = count()
        self.batcher = Batcher(
            engine,
            tokenizer(),
            context_shift=context_shift,
            log=self.log.append,
            on_end=self.ended.append,
            cache=cache,
        )

    def add(self, task: Task) -> int:
        task_id = next(self._ids)
        self.events[task_id] = []
        self.batcher.change([SlotRequest(task_id, task_id, task, self.events[task_id].extend, 0.0)])
        return task_id

    def add_copies(self, tasks: Sequence[Task]) -> list[int]:
        """Of one request."""
        ids = [next(self._ids) for _ in tasks]
        self.events.update((task_id, []) for task_id in ids)
        pairs = zip(ids, tasks, strict=True)
        self.batcher.change([SlotRequest(i, ids[0], task, self.events[i].extend, 0.0) for i, task in pairs])
        return ids

    def run(self, steps: int = 0) -> None:
        """So many steps; 0: until nothing is left to do."""
        for _ in range(steps or 2000):
            if not self.batcher.is_busy:
                return
            self.batcher.step()
        assert steps, "a slot is stuck"

    def do(self, task: Task) -> list[Event]:
        task_id = self.add(task)
        self.run()
        return self.events[task_id]


def tokens(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, TextPiece) for token in event.tokens]


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextPiece))


def end(events: Sequence[Event]) -> Finished:
    """The only final event, of a completion."""
    assert [isinstance(event, FINAL) for event in events] == [False] * (len(events) - 1) + [True]
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def failure(events: Sequence[Event]) -> Failed:
    assert isinstance(events[-1], Failed), events
    return events[-1]
