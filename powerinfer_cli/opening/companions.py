"""What a model is run with beside its own file: activation statistics, and predictors from a directory."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import ModelConfig, Predictors, load_predictors
from powerinfer_cli.opening.plan_files import cache_root
from powerinfer_cli.placement import ActivationStatistics, find_statistics, load_statistics, model_fingerprint
from powerinfer_cli.placement.group_activity import GroupActivity, load_group_activity
from solver.owner import Owner, owner_of
from solver.state import read_state

__all__ = ["Companions", "cached_results", "find_companions"]

Note = Callable[[str], None]

_TURNED = re.compile(r"blk\.\d+\.ffn_down_t\.weight")


@dataclass(frozen=True)
class Companions:
    """Of one model. together: what its profile knows of neurons that fire together."""

    statistics: ActivationStatistics | None
    predictors: Predictors | None
    together: GroupActivity | None = None


def find_companions(gguf: GGUFFile, config: ModelConfig, predictor_path: Path | None, note: Note) -> Companions:
    """The predictors of a directory, if one is given, and the statistics that lie beside the model.

    Statistics only save work, so unusable ones are noted and left alone; a dense model has no use for them, unless its
    down matrices are transposed. Raises PowerInferError: predictors that are none, or another model's.
    """
    predictors = None
    if predictor_path is not None:
        predictors = load_predictors(predictor_path, config.n_embd, config.n_ff)
    by_rows = gguf.sparse or predictors is not None or any(map(_TURNED.fullmatch, gguf.tensors))
    statistics, together = _statistics(gguf, config, note) if by_rows else (None, None)
    return Companions(statistics, predictors, together)


def cached_results(gguf: GGUFFile) -> Path:
    """Where in the user's cache folder results lie of a model whose own folder takes none."""
    return cache_root() / "solved" / model_fingerprint(gguf)


def _statistics(
    gguf: GGUFFile, config: ModelConfig, note: Note
) -> tuple[ActivationStatistics, GroupActivity | None] | tuple[None, None]:
    folder = find_statistics(gguf.path)
    if folder is None:
        folder = cached_results(gguf) / "activation"
        if not folder.is_dir():
            return None, None
    if owner_of(read_state(folder.parent), "activation", gguf) is Owner.OTHER:
        note(f"activation statistics are not used: {folder} is of another model")
        return None, None
    try:
        statistics = load_statistics(folder, config.n_ff)
        return statistics, load_group_activity(folder.parent, statistics.counts)
    except PowerInferError as error:
        note(f"activation statistics are not used: {error}")
        return None, None
