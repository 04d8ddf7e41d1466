"""Every module says what it offers, and offers what it says."""

import importlib
import pkgutil

import pytest

import powerinfer_cli
import solver

MODULES = sorted(
    module.name
    for package in (powerinfer_cli, solver)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    for public in offered:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")])
def test_rooms_say_what_they_offer(name: str) -> None:
    room = importlib.import_module(name)
    # Their modules are imported one by one, where they are needed.
    empty = name in (
        "powerinfer_cli.bundled",
        "powerinfer_cli.cluster",
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
    )
    assert bool(getattr(room, "__all__", None)) != empty
