"""Placement plans by hand."""

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement, Plan, no_neurons
from tests.helpers.model_file import ModelFile

__all__ = ["plan_of", "widths"]


def plan_of(
    model: ModelFile,
    devices: list[int],
    shares: list[float],
    output: int,
    seed: int = 0,
    groups: list[int] | None = None,
) -> Plan:
    """For each layer its device and the share of its neurons that is hot; of its groups, where these are others."""
    rng = np.random.default_rng(seed)
    layers = []
    for device, share, n_ff in zip(devices, shares, groups or widths(model, len(devices)), strict=True):
        count = round(share * n_ff) if device != MAIN_MEMORY else 0
        hot = np.sort(rng.choice(n_ff, count, replace=False)).astype(np.int32)
        layers.append(LayerPlacement(device, hot if count else no_neurons()))
    return Plan((1 << 30, 1 << 30), tuple(layers), output, "greedy", "")


def widths(model: ModelFile, n_layer: int | None = None) -> list[int]:
    """Each layer's number of neurons, without layers of nothing. n_layer: as if it had so many, all alike."""
    found = model.metadata[f"{model.arch}.feed_forward_length"]
    return [one for one in found if one] if isinstance(found, list) else [int(found)] * (n_layer or model.n_layer)
