"""One completion, from the logits that follow its prompt to its end."""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from powerinfer_cli.serving.slots.choosing import Chooser
from powerinfer_cli.serving.slots.showing import Showing, ShownText
from powerinfer_cli.serving.tasks import CompletionTask, Stop
from powerinfer_cli.text import Tokenizer

__all__ = ["Generation"]


class Generation:
    """Chooses tokens, shows their text, and knows when it is enough."""

    def __init__(
        self,
        task: CompletionTask,
        tokenizer: Tokenizer,
        chooser: Chooser,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """clock: seconds."""
        self._task, self._chooser, self._clock = task, chooser, clock
        self._eog_ids = tokenizer.eog_ids
        self._showing = Showing(tokenizer, task)
        self.pending = -1
        """The last token that was written; the model has yet to read it."""
        self.n_predicted = 0
        self.stop: Stop | None = None
        """Why it is over; None while it goes on."""
        self.truncated = False
        """Whether the context was full, or has shifted."""
        self.has_new_line = False
        self.began = self.last = 0.0
        """When the first token was chosen, and the last one."""

    @property
    def seed(self) -> int:
        """What the draws were made from."""
        return self._chooser.sampler.seed

    @property
    def stopping_word(self) -> str:
        """The stop string that ended it, empty for none."""
        return self._showing.stopping_word or ""

    @property
    def predicted_ms(self) -> float:
        """Time since the first token was chosen, of the last one."""
        return max(1e-3, 1e3 * (self.last - self.began)) if self.n_predicted else 0.0

    @property
    def n_left(self) -> int:
        """Tokens that may still be written, -1 for no limit."""
        return -1 if self._task.n_predict < 0 else max(0, self._task.n_predict - self.n_predicted)

    def advance(self, logits: npt.NDArray[np.float32], *, full: bool = False) -> ShownText:
        """Write one token more: what may be shown now. `stop` is set where it was the last one.

        logits: [n_vocab]. full: the context has no room for another one. Raises whatever sampling raises.
        """
        token, chances = self._chooser.choose(logits)
        self.last = self._clock()
        if self.n_predicted == 0:
            self.began = self.last
        self.n_predicted += 1
        self.pending = token
        shown = self._showing.push(token, chances)
        self.has_new_line = self.has_new_line or "\n" in shown.text
        self.stop = self._reason(token, shown.text, full)
        if self.stop is not None:
            rest = self._showing.flush()
            shown = ShownText(shown.text + rest.text, shown.tokens + rest.tokens, shown.chances + rest.chances)
            self.has_new_line = self.has_new_line or "\n" in rest.text
            if self._showing.stopping_word is not None:
                self.stop = Stop.WORD
        return shown

    def _reason(self, token: int, text: str, full: bool) -> Stop | None:
        if token in self._eog_ids:
            return Stop.END
        can_go_on = self._chooser.accept(token)
        if self._showing.stopping_word is not None:
            return Stop.WORD
        self.truncated = self.truncated or full
        if full or self._showing.outdented or self.n_left == 0 or self._out_of_time(text):
            return Stop.LIMIT
        return None if can_go_on else Stop.END

    def _out_of_time(self, text: str) -> bool:
        limit = self._task.t_max_predict_ms
        return limit > 0 and "\n" in text and self.predicted_ms > limit
