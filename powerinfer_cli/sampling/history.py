"""The latest tokens, for the samplers that look back."""

from __future__ import annotations

import numpy as np

from powerinfer_cli.sampling.candidates import Ids


class History:
    """Remembers the last `window` tokens at least; appending and looking back take no time that grows with it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._tokens = np.empty(min(2 * window, 1024), np.intp)
        self._n = 0

    def append(self, token: int) -> None:
        if self.window == 0:
            return
        if self._n == self._tokens.size:
            self._make_room()
        self._tokens[self._n] = token
        self._n += 1

    def last(self, n: int) -> Ids:
        """The last `n` tokens, oldest first; fewer when there are fewer."""
        return self._tokens[max(0, self._n - n) : self._n]

    def clear(self) -> None:
        self._n = 0

    def _make_room(self) -> None:
        kept = self.last(self.window)
        grown = np.empty(min(2 * self.window, 2 * self._tokens.size), np.intp)
        grown[: kept.size] = kept
        self._tokens, self._n = grown, kept.size
