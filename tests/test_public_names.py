"""Every module says what it offers, and offers what it says."""

import importlib
import pkgutil
from importlib.util import find_spec
from types import ModuleType

import pytest

import powerinfer_cli
import solver

FOUND = [
    module
    for package in (powerinfer_cli, solver)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
MODULES = sorted(module.name for module in FOUND)
ROOMS = sorted(module.name for module in FOUND if module.ispkg)
EXTRAS = ("ray", "grpc")  # of `cluster`


def imported(name: str) -> ModuleType:
    """Or the test is skipped: it needs what is an extra, which is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            pytest.skip(f"{error.name} is not installed")
        raise


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist(name: str) -> None:
    module = imported(name)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    for public in offered:
        known = hasattr(module, public) or find_spec(f"{name}.{public}") is not None
        assert known, f"{name}.__all__ names {public}, which is not there"


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_say_what_they_offer(name: str) -> None:
    room = imported(name)
    # Their modules are imported one by one, where they are needed.
    empty = name in (
        "powerinfer_cli.bundled",
        "powerinfer_cli.cluster",
        "powerinfer_cli.cluster.replicas",
        "powerinfer_cli.commands",
        "powerinfer_cli.commands.shared",
        "powerinfer_cli.commands.shared.flags",
        "powerinfer_cli.convert",
        "powerinfer_cli.convert.families",
        "powerinfer_cli.convert.families.encoders",
        "powerinfer_cli.kernels",
        "powerinfer_cli.kernels.cpu",
        "powerinfer_cli.kernels.cpu.attention",
        "powerinfer_cli.kernels.cpu.experts",
        "powerinfer_cli.kernels.cpu.sparse",
        "powerinfer_cli.kernels.cpu.recurrent",
        "powerinfer_cli.model.families",
        "powerinfer_cli.model.parts",
        "powerinfer_cli.model.families.encoders",
        "powerinfer_cli.opening.planning",
        "powerinfer_cli.router",
        "powerinfer_cli.runtime.context",
        "powerinfer_cli.runtime.cpu",
        "powerinfer_cli.runtime.device",
        "powerinfer_cli.runtime.hybrid",
        "powerinfer_cli.runtime.reference",
        "powerinfer_cli.sampling.grammars",
        "powerinfer_cli.system",
        "powerinfer_cli.text.algorithms",
        "solver.machines",
    )
    assert bool(getattr(room, "__all__", None)) != empty
