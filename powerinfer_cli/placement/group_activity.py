"""What a profile knows beyond counts: how many tokens were seen, and how neurons fire together.

Neurons of a layer are ranked by how often they fire and cut into groups of neighbours. Of each group the mean number
of active neurons is kept, and of each pair of groups the covariance: a planner that gives the first groups to one
device learns how much the others' work varies from token to token. It lies beside the `activation` folder, not in it:
the original PowerInfer takes every file in there for a layer's.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import replacing

__all__ = ["GROUPS", "GroupActivity", "group_activity", "load_group_activity", "save_group_activity"]

GROUPS = 32
NAME = "activation.npz"
MAX_FILE_BYTES = 64 << 20

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
        PowerInferError: a file that is not what it should be.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_FILE_BYTES:
                raise ValueError("too large")
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = GroupActivity(
                int(file["tokens"]), *(file[name] for name in ("sums", "bounds", "mean", "covariance"))
            )
        _check(found)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise PowerInferError(f"{path}: not the group activity of a profile ({type(error).__name__})") from error
    sums = np.array([values.sum() for values in counts])
    same = sums.shape == found.sums.shape and np.allclose(sums, found.sums)
    return found if same and max(values.max(initial=0) for values in counts) <= found.tokens else None


def _check(found: GroupActivity) -> None:
    n_layer, groups = len(found.sums), len(found.bounds) - 1
    shapes = found.sums.shape == (n_layer,) and found.mean.shape == (n_layer, groups)
    if not shapes or found.covariance.shape != (n_layer, groups, groups) or found.tokens < 1:
        raise ValueError("shapes")
    if not all(np.isfinite(values).all() for values in (found.sums, found.mean, found.covariance)):
        raise ValueError("not finite")
