"""What a model is run with beside its own file: activation statistics, the trace beside them, and predictors."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model, Predictors, load_predictors
from powerinfer_cli.opening.planning.plan_files import cache_root
from powerinfer_cli.placement import (
    ActivationStatistics,
    FiringTrace,
    RouteTrace,
    find_firing,
    find_routes,
    find_statistics,
    load_firing,
    load_statistics,
    model_fingerprint,
)
from powerinfer_cli.placement.group_activity import GroupActivity, load_group_activity
from solver.owner import Owner, owner_of, whose_statistics
from solver.routing import expert_routes, expert_statistics
from solver.state import read_state

__all__ = ["Companions", "cached_results", "find_companions"]

Note = Callable[[str], None]

_TURNED = re.compile(r"blk\.\d+\.ffn_down_t\.weight")


@dataclass(frozen=True)
class Companions:
    """Of one model. together: what its profile knows of neurons that fire together. traced: where the order is that its
    experts were chosen, or its neurons needed, in. let_through: by layer, the share of neurons that the predictors let
    through, where they were made by `solve`.
    """

    statistics: ActivationStatistics | None
    predictors: Predictors | None
    together: GroupActivity | None = None
    traced: Path | None = None
    let_through: tuple[float, ...] | None = None

    def of_layers(self, begin: int, end: int) -> "Companions":
        """Of layers begin to end - 1 alone; what tells of all layers together is left out."""
        statistics = None if self.statistics is None else self.statistics.of_layers(begin, end)
        predictors = self.predictors
        if predictors is not None:
            predictors = Predictors(predictors.layers[begin:end], predictors.threshold)
        let_through = None if self.let_through is None else self.let_through[begin:end]
        return Companions(statistics, predictors, let_through=let_through)

    def routes(self, model: Model, note: Note) -> RouteTrace | None:
        """The trace; None without one, or where it is of no use, which is noted."""
        try:
            return None if self.traced is None else expert_routes(self.traced, model)
        except PowerInferError as error:
            note(f"the route trace is not used: {error}")
            return None

    def firing(self, model: Model, note: Note) -> FiringTrace | None:
        """The trace of neurons; None without one, or where it is of no use, which is noted."""
        if self.traced is None:
            return None
        try:
            found = load_firing(self.traced, model.config.n_ff)
            if whose_statistics(self.traced.parent) in (None, found.model):
                return found
            raise PowerInferError(f"{self.traced}: a firing trace of another model")
        except PowerInferError as error:
            note(f"the firing trace is not used: {error}")
            return None


def find_companions(gguf: GGUFFile, model: Model, predictor_path: Path | None, note: Note) -> Companions:
    """The predictors of a directory, if one is given, and the statistics that lie beside the model.

    Statistics only save work, so unusable ones are noted and left alone; a dense model has no use for them, unless its
    down matrices are transposed. Those of a mixture are of its experts. Raises PowerInferError: predictors that are
    none, or another model's.
    """
    predictors, config, through = None, model.config, None
    if predictor_path is not None:
        predictors = load_predictors(predictor_path, config.n_embd, config.n_ff)
        through = _reported(predictor_path.parent, config.n_layer)
    by_rows = gguf.sparse or predictors is not None or any(map(_TURNED.fullmatch, gguf.tensors))
    folder = _statistics_folder(gguf, note) if by_rows or model.has_experts else None
    if folder is None:
        return Companions(None, predictors)
    try:
        if model.has_experts:
            return Companions(expert_statistics(folder, model), predictors, traced=find_routes(folder.parent))
        statistics = load_statistics(folder, config.n_ff)
        together = load_group_activity(folder.parent, statistics.counts)
        traced = find_firing(folder.parent)
        return Companions(statistics, predictors, together, traced, let_through=through)
    except PowerInferError as error:
        note(f"activation statistics are not used: {error}")
        return Companions(None, predictors)


def _reported(folder: Path, n_layer: int) -> tuple[float, ...] | None:
    """By layer, what `solve` has recorded of predictors that it made in a folder."""
    try:
        found = tuple(float(report["predicted_density"]) for report in read_state(folder).found("predictor")["reports"])
    except (KeyError, TypeError, ValueError):
        return None
    return found if len(found) == n_layer and all(0 <= share <= 1 for share in found) else None


def cached_results(gguf: GGUFFile) -> Path:
    """Where in the user's cache folder results lie of a model whose own folder takes none."""
    return cache_root() / "solved" / model_fingerprint(gguf)


def _statistics_folder(gguf: GGUFFile, note: Note) -> Path | None:
    folder = find_statistics(gguf.path)
    if folder is None:
        folder = cached_results(gguf) / "activation"
        if not folder.is_dir():
            return None
    if owner_of(read_state(folder.parent), "activation", gguf) is Owner.OTHER:
        note(f"activation statistics are not used: {folder} is of another model")
        return None
    return folder
