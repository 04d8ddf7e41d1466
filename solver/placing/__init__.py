"""Placing: what work costs on a machine, which neurons go to its GPUs, and what that leads one to expect."""

from solver.placing.costs import Activity, activity_from, always_active
from solver.placing.device_profile import (
    DeviceProfile,
    Link,
    Processor,
    Rates,
    bundled_profiles,
    load_profile,
    save_profile,
)
from solver.placing.planning import PlanResult, PlanSettings, make_plan
from solver.placing.simulation import LayerTime, Prediction, Work, simulate
from solver.placing.streaming import stream_from

__all__ = [
    "Activity",
    "DeviceProfile",
    "LayerTime",
    "Link",
    "PlanResult",
    "PlanSettings",
    "Prediction",
    "Processor",
    "Rates",
    "Work",
    "activity_from",
    "always_active",
    "bundled_profiles",
    "load_profile",
    "make_plan",
    "save_profile",
    "simulate",
    "stream_from",
]
