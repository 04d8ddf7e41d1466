"""Activation statistics, and what follows from them for where neurons go. Pure data, no execution."""

from powerinfer_cli.placement.statistics import (
    ActivationStatistics,
    LayerActivity,
    find_statistics,
    load_statistics,
    save_statistics,
)

__all__ = ["ActivationStatistics", "LayerActivity", "find_statistics", "load_statistics", "save_statistics"]
