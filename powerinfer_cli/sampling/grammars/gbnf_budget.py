"""How much looking at a grammar may cost."""

from dataclasses import dataclass

__all__ = ["Budget", "SpentError"]


class SpentError(Exception):
    """There is no more work to be done; what was found so far is of no use."""


@dataclass
class Budget:
    """Steps that may still be taken: of some microseconds, and of some tens of bytes if something is kept of them."""

    left: int

    def spend(self, steps: int = 1) -> None:
        """Before they are taken. Raises SpentError."""
        self.left -= steps
        if self.left < 0:
            raise SpentError
