"""What is known of the request that is being answered, for its line in the log: never its text."""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from powerinfer_cli.serving.tasks import Event, Finished

__all__ = ["Record", "current", "note_events"]


@dataclass
class Record:
    """One request. status: 499, as nginx has it, where the client went before there was one. complete: the whole
    answer was sent. n_bytes: of its body. finished: of its completions, in the order in which they ended.
    """

    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 499
    complete: bool = False
    n_bytes: int = 0
    finished: list[Finished] = field(default_factory=list)

    def values(self) -> dict[str, object]:
        """As the log tells them."""
        values: dict[str, object] = {
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round((time.perf_counter() - self.started) * 1000, 1),
        }
        if not self.complete:
            values["gone"] = True
        if self.finished:
            times = [one.timings for one in self.finished]
            steps = sum(max(0, one.predicted_n - 1) for one in times)  # a first token comes from the prompt
            seconds = sum(one.predicted_ms for one in times) / 1000
            values |= {
                "slot": ",".join(str(one.id_slot) for one in self.finished),
                "prompt": sum(one.prompt_n for one in times),
                "cached": sum(one.cache_n for one in times),
                "predicted": sum(one.predicted_n for one in times),
                "tokens_per_s": round(steps / seconds, 1) if steps and seconds > 0 else 0.0,
            }
        return values


current: ContextVar[Record | None] = ContextVar("request", default=None)


def note_events(record: Record | None, events: Sequence[Event]) -> None:
    """Remember what the log will tell."""
    if record is not None and isinstance(events[-1], Finished):
        record.finished.append(events[-1])
