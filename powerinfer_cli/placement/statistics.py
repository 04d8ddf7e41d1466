"""Activation statistics: how often each neuron was active, kept as `activation/activation_N.pt` beside a model.

Each file is `torch.save` of one 1-D tensor [n_ff] of counts, as the original PowerInfer's tools write and read it; of a
layer with experts, [n_experts]: how often each was chosen.
Of how many tokens they are is in a file of ours beside the folder (`group_activity`), where we made them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing, write_torch
from powerinfer_cli.number_files import is_whole, layer_files, load_torch
from powerinfer_cli.placement.group_activity import MOST_TOKENS, load_group_activity
from powerinfer_cli.torch_files import plain_vector

__all__ = [
    "ActivationStatistics",
    "LayerActivity",
    "find_statistics",
    "load_statistics",
    "save_statistics",
    "solved_folder",
]

FOLDER = "activation"
MAX_FILE_BYTES = 64 << 20  # a layer of a million neurons in float64 is 8 MiB
ENOUGH_TOKENS = 10_000  # fewer, and a neuron that was never seen active may well become so


@dataclass(frozen=True)
class LayerActivity:
    """What a layer's statistics settle without asking the predictor."""

    always: npt.NDArray[np.bool_]  # [n_ff]
    undecided: npt.NDArray[np.int64]  # indices of neurons that are neither always nor never active


@dataclass(frozen=True)
class ActivationStatistics:
    """Counts by layer, each [n_ff] float64, or [n_experts], over `tokens`; None where the files' maker did not tell."""

    counts: tuple[npt.NDArray[np.float64], ...]
    tokens: int | None = None

    def uses(self, layer: int) -> npt.NDArray[np.float64]:
        """How often a token used each of a layer's neurons or experts, 0..1."""
        return self.counts[layer] / max(self._tokens, 1)

    @property
    def _tokens(self) -> float:
        return self.tokens or max(counts.max(initial=0) for counts in self.counts)

    def of_layers(self, begin: int, end: int) -> "ActivationStatistics":
        """Of layers begin to end - 1 alone, over as many tokens."""
        return ActivationStatistics(self.counts[begin:end], int(self._tokens))

    def activity(self, layer: int) -> LayerActivity | None:
        """Neurons of a layer that are always, or never, active; None where too few tokens were seen to tell, and of a
        layer that none of them used, whose whole FFN would be left out.

        Where the number of tokens is not known, the largest count of all layers stands for it: no count is larger,
        and a neuron that reached it was always active, or is at least the most active one that there is.
        """
        tokens, counts = self._tokens, self.counts[layer]
        if tokens < ENOUGH_TOKENS or not counts.any():
            return None
        always = counts >= tokens
        return LayerActivity(always, np.flatnonzero((counts > 0) & ~always))


def find_statistics(model: Path) -> Path | None:
    """The `activation` folder of a model file alone, or that beside it; or of what it is a link to, or None."""
    places = (place for path in (model, model.resolve()) for place in (solved_folder(path), path.parent))
    folders = (place / FOLDER for place in places)
    return next((folder for folder in folders if folder.is_dir()), None)


def solved_folder(model: Path) -> Path:
    """Where results of this file alone lie, if there is such a folder: of several models in one folder."""
    return model.with_name(f"{model.name.removesuffix('.gguf')}.solved")


def load_statistics(folder: Path, n_groups: Sequence[int]) -> ActivationStatistics:
    """Read one file a layer, by its number, of so many neurons, or experts.

    Raises:
        PowerInferError: a layer without its file, a file of another model, or one that is not a tensor.
    """
    paths = layer_files(folder, "activation", len(n_groups), "activation statistics")
    counts = tuple(_load_counts(path, groups) for path, groups in zip(paths.values(), n_groups, strict=True))
    known = load_group_activity(folder.parent, counts)
    return ActivationStatistics(counts, known.tokens if known else None)


def _load_counts(path: Path, n_groups: int) -> npt.NDArray[np.float64]:
    counts = plain_vector(path, MAX_FILE_BYTES)
    if counts is None:
        counts = _by_torch(path)
    if counts.shape != (n_groups,):
        raise PowerInferError(f"{path}: activation counts of another model: {counts.shape} instead of ({n_groups},)")
    values = counts.astype(np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise PowerInferError(f"{path}: activation counts that are negative or not finite")
    if (values > MOST_TOKENS).any():
        raise PowerInferError(f"{path}: activation counts of more tokens than any text has")
    return values


def _by_torch(path: Path) -> npt.NDArray[Any]:
    what = "a saved tensor of activation counts"
    counts = load_torch(path, MAX_FILE_BYTES, what)
    if not is_whole(counts):
        raise PowerInferError(f"{path}: not {what} ({type(counts).__name__})")
    # A copy: the file may be replaced while this is in use.
    return np.array(counts.detach().resolve_neg().double().numpy())


def save_statistics(folder: Path, counts: Sequence[npt.NDArray[Any]]) -> None:
    """Write one `activation_N.pt` a layer; old ones are replaced when all new ones are written.

    Raises:
        PowerInferError: they cannot be written; the old ones are still there.
    """
    import torch

    make_folder(folder)
    with ExitStack() as whole:  # leaves the files from the last to the first: renames them, or removes all
        for layer, values in enumerate(counts):
            temporary = whole.enter_context(replacing(folder / f"activation_{layer}.pt"))
            write_torch(temporary, torch.from_numpy(np.ascontiguousarray(values)))
