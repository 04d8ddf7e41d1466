"""What a profile knows beyond counts: how many tokens were seen, and how neurons fire together.

Neurons of a layer are ranked by how often they fire and cut into groups of neighbours. Of each group the mean number
of active neurons is kept, and of each pair of groups the covariance: a planner that gives the first groups to one
device learns how much the others' work varies from token to token. It lies beside the `activation` folder, not in it:
the original PowerInfer takes every file in there for a layer's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import replacing
from powerinfer_cli.number_files import load_arrays

__all__ = ["GROUPS", "GroupActivity", "group_activity", "load_group_activity", "save_group_activity"]

GROUPS = 32
NAME = "activation.npz"
MAX_FILE_BYTES = 64 << 20
MOST_TOKENS, MOST_NEURONS = 1 << 62, 1 << 31
LARGEST = 1e30  # of what is counted, or its square

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupActivity:
    """bounds [G + 1]: group g holds ranks bounds[g] to bounds[g + 1], the most active neurons first.

    mean [layers, G] and covariance [layers, G, G] are of the number of active neurons of a token; `sums` [layers] are
    the counts' sums, by which the file is known to belong to them.
    """

    tokens: int
    sums: Floats
    bounds: npt.NDArray[np.int64]
    mean: Floats
    covariance: Floats

    def tail_deviation(self, layer: int, group: int) -> float:
        """Standard deviation of the number of active neurons in groups `group` and after."""
        return float(np.sqrt(max(0.0, self.covariance[layer, group:, group:].sum())))


def group_activity(counts: npt.NDArray[Any], samples: Sequence[npt.NDArray[np.bool_]], tokens: int) -> GroupActivity:
    """From counts [layers, n_ff] over `tokens`, and for each layer a sample of tokens' active sets, bool [S, n_ff]."""
    n_layer, n_ff = counts.shape
    bounds = np.unique(np.linspace(0, n_ff, min(GROUPS, n_ff) + 1).astype(np.int64))
    means, covariances = [], []
    for layer in range(n_layer):
        order = np.argsort(-counts[layer], kind="stable")
        active = np.add.reduceat(samples[layer][:, order].astype(np.float64), bounds[:-1], axis=1)
        means.append(np.add.reduceat(counts[layer][order].astype(np.float64), bounds[:-1]) / max(1, tokens))
        centred = active - active.mean(axis=0)
        covariances.append(centred.T @ centred / max(1, len(active) - 1))
    return GroupActivity(tokens, counts.sum(axis=1).astype(np.float64), bounds, np.array(means), np.array(covariances))


def save_group_activity(folder: Path, activity: GroupActivity) -> None:
    """Write the file that lies beside the `activation` folder in `folder`. Raises PowerInferError."""
    with replacing(folder / NAME) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, **vars(activity))


def load_group_activity(folder: Path, counts: Sequence[Floats]) -> GroupActivity | None:
    """The file in `folder` that belongs to these counts; None where there is none, or one of other counts.

    Raises:
        PowerInferError: a file that is not what it should be, or one of fewer tokens than were counted.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    what = "the group activity of a profile"
    found = load_arrays(path, (field.name for field in fields(GroupActivity)), MAX_FILE_BYTES, what)
    wrong = _wrong(found)
    if wrong:
        raise PowerInferError(f"{path}: not {what}: {wrong}")
    sums = np.array([values.sum() for values in counts])
    tokens = int(found["tokens"])
    same = sums.shape == found["sums"].shape and np.allclose(sums, found["sums"])
    same = same and found["bounds"][-1] == counts[0].size
    if not same:
        return None
    if max(values.max(initial=0) for values in counts) > tokens:
        raise PowerInferError(f"{path}: of {tokens} tokens, but neurons were counted active in more of them")
    mean, covariance = (found[name].astype(np.float64) for name in ("mean", "covariance"))
    return GroupActivity(tokens, sums, found["bounds"].astype(np.int64), mean, covariance)


def _wrong(found: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """What is wrong with the arrays of a file, if anything."""
    tokens, sums, bounds = found["tokens"], found["sums"], found["bounds"]
    if tokens.shape != () or tokens.dtype.kind not in "iu" or not 1 <= int(tokens) <= MOST_TOKENS:
        return "tokens is not a number of tokens"
    if bounds.ndim != 1 or bounds.dtype.kind not in "iu" or bounds.size < 2 or bounds[0] != 0:
        return "bounds are not ranks from 0 on"
    if (bounds[1:] <= bounds[:-1]).any() or bounds[-1] > MOST_NEURONS:
        return "bounds do not rise"
    layers, groups = sums.size, bounds.size - 1
    shapes = {"sums": (layers,), "mean": (layers, groups), "covariance": (layers, groups, groups)}
    for name, shape in shapes.items():
        if found[name].shape != shape:
            return f"the shape of {name}"
        if found[name].dtype.kind != "f" or not (np.abs(found[name]) <= LARGEST).all():
            return f"{name} has what is no number"
    return None
