"""Activation statistics, and what follows from them for where neurons go. Pure data, no execution."""

from powerinfer_cli.placement.plan import (
    MAIN_MEMORY,
    LayerPlacement,
    Plan,
    all_neurons,
    main_memory_plan,
    no_neurons,
)
from powerinfer_cli.placement.statistics import (
    ActivationStatistics,
    LayerActivity,
    find_statistics,
    load_statistics,
    save_statistics,
)

__all__ = [
    "MAIN_MEMORY",
    "ActivationStatistics",
    "LayerActivity",
    "LayerPlacement",
    "Plan",
    "all_neurons",
    "find_statistics",
    "load_statistics",
    "main_memory_plan",
    "no_neurons",
    "save_statistics",
]
