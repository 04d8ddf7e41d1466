"""What somebody wishes of drafting."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from powerinfer_cli.errors import UsageError
from powerinfer_cli.kernels.few import FEW

__all__ = ["MOST", "DraftOptions", "SpecType", "draft_options"]

MOST = FEW - 1
"""Proposed tokens that a step can verify, behind the one that is known."""


_NAMES = {
    "ngram": ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
    "draft": ("draft-simple",),
    "mtp": ("draft-mtp",),
}
_BY_NAME = {name: kind for kind, names in _NAMES.items() for name in names}


class SpecType(StrEnum):
    """Who proposes."""

    NONE = "none"
    NGRAM = "ngram"
    MODEL = "draft"
    MTP = "mtp"


_RANGES: dict[str, tuple[int, int]] = {
    "most": (1, 64),
    "least": (0, MOST),
    "p_min": (0, 1),
    "size_n": (1, 1024),
    "size_m": (1, 1024),
    "min_hits": (1, 1 << 20),
    "n_gpu_layers": (-1, 1 << 20),
    "n_ctx": (0, 1 << 30),
}
_FLAGS = {
    "most": "--draft-max",
    "least": "--draft-min",
    "p_min": "--draft-p-min",
    "size_n": "--spec-ngram-size-n",
    "size_m": "--spec-ngram-size-m",
    "min_hits": "--spec-ngram-min-hits",
    "n_gpu_layers": "-ngld",
    "n_ctx": "-cd",
}
_OF_NGRAMS = frozenset({"size_n", "size_m", "min_hits"})
_OF_MODELS = frozenset({"p_min", "n_gpu_layers", "n_ctx"})


@dataclass(frozen=True)
class DraftOptions:
    """Named as llama.cpp's flags are.

    most, least: tokens of a draft; a shorter one is not verified. p_min: what a draft model goes on with is at least so
    likely. size_n: tokens of the context's end that must have been there before; size_m: the most that are proposed of
    what followed; min_hits: how often they must have been there. n_gpu_layers, n_ctx: of the draft model.
    """

    kind: SpecType = SpecType.NONE
    model: Path | None = None
    most: int = MOST
    least: int = 0
    p_min: float = 0.5
    size_n: int = 2
    size_m: int = MOST
    min_hits: int = 1
    n_gpu_layers: int | None = None
    n_ctx: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError: numbers that make no sense."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{_FLAGS[name]} must be {low} to {high}, got {value}")
        if self.least > self.most:
            raise UsageError(f"--draft-min {self.least} is more than --draft-max {self.most}")
        if self.kind is SpecType.MODEL and self.model is None:
            raise UsageError("--spec-type draft needs a draft model (-md FILE)")

    @property
    def wanted(self) -> bool:
        return self.kind is not SpecType.NONE


def draft_options(spec_type: str | None, model: Path | None, **numbers: float | None) -> DraftOptions:
    """From what flags, or keywords, say; None: nothing. Names are ours or llama.cpp's.

    Raises UsageError: numbers that make no sense, or that mean nothing beside the others.
    """
    given = {name: value for name, value in numbers.items() if value is not None}
    kind = _kind(spec_type) if spec_type is not None else SpecType.NONE if model is None else SpecType.MODEL
    if model is not None and kind is not SpecType.MODEL:
        raise UsageError(f"-md has no effect with --spec-type {kind}: leave one of them out")
    if kind is SpecType.NONE and given:
        flags = ", ".join(sorted(_FLAGS[name] for name in given))
        raise UsageError(f"{flags} needs somebody who drafts: --spec-type ngram, or -md FILE")
    idle = given.keys() & (_OF_MODELS if kind is SpecType.NGRAM else _OF_NGRAMS)
    if idle:
        flags = ", ".join(sorted(_FLAGS[name] for name in idle))
        raise UsageError(f"without effect where --spec-type is {kind}: {flags}")
    return DraftOptions(kind, model, **given)  # type: ignore[arg-type]  # each by its name


def _kind(name: str) -> SpecType:
    try:
        return SpecType(_BY_NAME.get(name, name))
    except ValueError:
        raise UsageError(f"--spec-type must be one of {', '.join(SpecType)}, got {name[:60]!r}") from None
