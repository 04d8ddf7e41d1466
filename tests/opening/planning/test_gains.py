"""What GPU memory gains a model, as the planner sees it; and as a router asks a server for it."""

import asyncio
import os
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from powerinfer_cli.opening import PlacementWishes, bundled_model
from powerinfer_cli.opening.planning import plan_job
from powerinfer_cli.opening.planning.gains import token_seconds
from powerinfer_cli.router.division import STEPS
from powerinfer_cli.router.weighing import weighed
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.placing import DeviceProfile, load_profile
from solver.placing.device_profile import Rates


def slow_cpu(name: str) -> DeviceProfile:
    """Beside which a GPU pays for the smallest model."""
    profile = load_profile(name)
    return replace(profile, cpu=replace(profile.cpu, rates={"any": Rates(1e8, 1e8)}, cache=1e8))


def test_more_memory_is_faster_until_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_job, "load_profile", slow_cpu)
    wishes = PlacementWishes(vram_budget=(64 << 20,), device="cpu")
    found = token_seconds(bundled_model(), EngineOptions(n_ctx=256), wishes, None, LoadEvents(), STEPS)
    assert len(found) == STEPS + 1
    assert all(after <= 1.001 * before for before, after in pairwise(found))
    assert found[0] > 1.5 * found[-1]
    assert found[-1] == found[-2]


def test_without_gpus_there_is_nothing_to_gain() -> None:
    wishes = PlacementWishes(device="cpu")
    assert token_seconds(bundled_model(), EngineOptions(n_ctx=256), wishes, None, LoadEvents(), STEPS) == []


def test_a_server_tells_its_router() -> None:
    words = (sys.executable, "-m", "powerinfer_cli", "server", "-c", "256", "--device", "cpu", "--vram-budget", "0.02")
    curve = asyncio.run(weighed(words, os.environ))
    assert len(curve) == STEPS + 1
    assert min(curve) > 0


@pytest.mark.parametrize("said", ["", "[1.0]", "no", "[" * 9000, str([-1.0] * (STEPS + 1)), str([1] * (STEPS + 1))])
def test_what_is_no_curve_is_none(said: str) -> None:
    words = (sys.executable, "-c", f"print({said!r})")
    assert asyncio.run(weighed(words, os.environ)) == ()


def test_no_program_tells_nothing() -> None:
    assert asyncio.run(weighed(("/no/program",), {})) == ()
