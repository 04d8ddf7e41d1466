"""How fast it went since somebody last asked."""

import threading
from dataclasses import dataclass, field

from powerinfer_cli.serving.slots.counters import Counters

__all__ = ["Rates"]


@dataclass
class Rates:
    """Tokens a second since the last time that somebody asked, as llama-server averages them."""

    _last: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def since_last(self, counters: Counters) -> tuple[float, float]:
        """Of prompts, and of what was written; 0 where nothing was."""
        now = (
            float(counters.prompt_tokens),
            counters.prompt_seconds,
            float(counters.predicted_steps),
            counters.predicted_seconds,
        )
        with self._lock:
            before, self._last = self._last, now
        read, read_s, steps, steps_s = (new - old for new, old in zip(now, before, strict=True))
        return read / read_s if read_s > 0 else 0.0, steps / steps_s if steps_s > 0 else 0.0
