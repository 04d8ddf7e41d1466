"""Constrained output: what a grammar or a JSON schema lets the next token be."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Constraint"]


class Constraint(Protocol):
    """The state of one text that must match. Tokens that end a text are allowed where it may end."""

    def allows(self, token: int) -> bool:
        """Whether the text may go on with this token."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens the text may go on with, [n_vocab]; at least one."""

    def accept(self, token: int) -> None:
        """The text has gone on with this token, which was allowed."""
