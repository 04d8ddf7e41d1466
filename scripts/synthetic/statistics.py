"""Activation statistics of a synthetic model, as its making foretells them: rates are known, nothing has to run."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement.group_activity import GROUPS, GroupActivity, save_group_activity
from powerinfer_cli.placement.statistics import FOLDER, save_statistics, solved_folder
from scripts.synthetic.weights import Shape, rates_of_layer

__all__ = ["write_statistics"]

TOKENS = 100_000  # whose counts are written


def write_statistics(model: Path, shape: Shape) -> None:
    """Where they are found beside a sparse model's file. Neurons fire as if they knew nothing of each other."""
    rates = np.stack([rates_of_layer(shape, layer) for layer in range(shape.layers)])
    counts = np.rint(rates * TOKENS)
    folder = solved_folder(model)
    save_statistics(folder / FOLDER, [layer.astype(np.float32) for layer in counts])
    bounds = np.unique(np.linspace(0, shape.ff, min(GROUPS, shape.ff) + 1).astype(np.int64))
    ranked = -np.sort(-rates, axis=1)

    def by_group(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.add.reduceat(values, bounds[:-1], axis=1)

    covariance = np.stack([np.diag(layer) for layer in by_group(ranked * (1 - ranked))])
    save_group_activity(folder, GroupActivity(TOKENS, counts.sum(axis=1), bounds, by_group(ranked), covariance))
