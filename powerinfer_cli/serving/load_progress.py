"""How far the loading of a model is, in the fields of llama-server's events, and one more."""

from dataclasses import dataclass
from typing import Any

from powerinfer_cli.runtime.options import OF_DRAFT

__all__ = ["LoadProgress"]

TEXT, DRAFT = "text_model", "spec_model"  # llama-server's names of what is loaded
LONGEST = 100  # characters of words


@dataclass(frozen=True)
class LoadProgress:
    """what: is done now, in words; value: how much of that, 0 to 1. drafts: another model comes behind the first."""

    what: str = "starting"
    value: float = 0.0
    drafts: bool = False

    def now(self, what: str, done: int, total: int) -> "LoadProgress":
        """As `LoadEvents.progress` tells it."""
        return LoadProgress(what, min(1.0, done / total) if total > 0 else 0.0, self.drafts)

    def fields(self) -> dict[str, Any]:
        """For clients."""
        return {
            "stages": [TEXT, DRAFT] if self.drafts else [TEXT],
            "current": DRAFT if self.what.endswith(OF_DRAFT) else TEXT,
            "value": round(self.value, 3),
            "what": self.what,
        }

    @classmethod
    def read(cls, fields: object) -> "LoadProgress | None":
        """What another process tells; None where that makes no sense."""
        match fields:
            case {"stages": list(stages), "value": int() | float() as value, "what": str(what)} if 0 <= value <= 1:
                return cls(what[:LONGEST], float(value), DRAFT in stages)
        return None

    def __str__(self) -> str:
        return f"{self.what} {self.value:.0%}" if self.value else self.what
