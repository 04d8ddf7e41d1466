"""Activation statistics, budgets, and what follows from them for where neurons go. Pure data, no execution."""

from powerinfer_cli.placement.budget import (
    Reservation,
    budget_bytes,
    check_budgets,
    parse_budgets,
    reserve,
    shown_bytes,
)
from powerinfer_cli.placement.fingerprint import are_kin, kin_numbers, model_fingerprint, statistics_fingerprint
from powerinfer_cli.placement.gpuidx import (
    Conditions,
    GpuIndex,
    gpuidx_path,
    read_gpuidx,
    stale_reason,
    write_gpuidx,
)
from powerinfer_cli.placement.plan import (
    MAIN_MEMORY,
    LayerPlacement,
    Neurons,
    Placement,
    Plan,
    all_neurons,
    cold_neurons,
    main_memory_plan,
    no_neurons,
)
from powerinfer_cli.placement.sizes import DeviceUse, LayerBytes, ModelBytes, RowReading, device_use, hot_bytes
from powerinfer_cli.placement.statistics import (
    ActivationStatistics,
    LayerActivity,
    find_statistics,
    load_statistics,
    save_statistics,
    solved_folder,
)

__all__ = [
    "MAIN_MEMORY",
    "ActivationStatistics",
    "Conditions",
    "DeviceUse",
    "GpuIndex",
    "LayerActivity",
    "LayerBytes",
    "LayerPlacement",
    "ModelBytes",
    "Neurons",
    "Placement",
    "Plan",
    "Reservation",
    "RowReading",
    "all_neurons",
    "are_kin",
    "budget_bytes",
    "check_budgets",
    "cold_neurons",
    "device_use",
    "find_statistics",
    "gpuidx_path",
    "hot_bytes",
    "kin_numbers",
    "load_statistics",
    "main_memory_plan",
    "model_fingerprint",
    "no_neurons",
    "parse_budgets",
    "read_gpuidx",
    "reserve",
    "save_statistics",
    "shown_bytes",
    "solved_folder",
    "stale_reason",
    "statistics_fingerprint",
    "write_gpuidx",
]
