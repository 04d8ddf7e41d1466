"""What one rank has of a model: a range of its layers, and its own plan of where these lie."""

from dataclasses import dataclass, replace

from powerinfer_cli.model import Model
from powerinfer_cli.model.ranges import LayerRange, part_of
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.opened import ModelFiles
from powerinfer_cli.opening.planning.placing import PlacingResult, place
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.runtime.backend import Backend, Parts
from powerinfer_cli.runtime.executors import backend_of

__all__ = ["RankBackend", "Share"]


@dataclass(frozen=True)
class RankBackend:
    """placed: what this machine's GPUs hold of the layers."""

    backend: Backend
    placed: PlacingResult

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that hold something."""
        return () if self.placed.placement is None else self.placed.placement.used


@dataclass(frozen=True)
class Share:
    """files: of the whole model; model, beside: of these layers alone."""

    files: ModelFiles
    layers: LayerRange
    model: Model
    beside: Companions

    @classmethod
    def of(cls, files: ModelFiles, layers: LayerRange) -> "Share":
        return cls(files, layers, part_of(files.model, layers), files.beside.of_layers(layers.begin, layers.end))

    def backend(self, parts: Parts, wishes: PlacementWishes) -> RankBackend:
        """parts: of the whole model. The plan is made anew: what is kept beside a file is the whole model's.

        Raises PowerInferError: what a rank wishes cannot be.
        """
        own = replace(parts, model=self.model, statistics=self.beside.statistics)
        options = replace(parts.options, n_ctx=parts.n_ctx) if self.model.config.causal else parts.options
        placed = place(self.files.gguf, self.model, options, wishes, self.beside, parts.events, keep=False)
        return RankBackend(backend_of(own, placed.placement), placed)
