"""Measured costs are kept, and measured anew where the question is another or the file is damaged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.gguf_io import GGMLType
from solver.placing import kept_costs
from solver.placing.device_profile import DeviceProfile, load_profile
from solver.placing.kept_costs import this_machine
from solver.placing.measure import USUAL, CostShape

WIDE = replace(USUAL, n_embd=256)  # a whole block of Q6_K


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def measured(devices: Any, kinds: Any, shape: CostShape, **_: Any) -> DeviceProfile:
        calls.append((tuple(devices), tuple(kinds), shape))
        return load_profile("rtx-3090-ddr5")

    monkeypatch.setattr(kept_costs, "measure_machine", measured)
    return calls


def test_costs_are_measured_once(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    folder = tmp_path / "costs"
    kinds = GGMLType.Q4_0, GGMLType.Q6_K
    first = this_machine(("cpu",), kinds, USUAL, folder)
    assert this_machine(("cpu",), kinds, USUAL, folder) == first
    assert asked == [(("cpu",), kinds, USUAL)]
    this_machine(("cpu",), kinds, USUAL, folder, anew=True)
    assert asked.pop() == asked[0]
    assert first.note.startswith("Measured: ")
    assert first.note.endswith(", cpu")
    narrow = replace(USUAL, n_embd=96)
    this_machine(("cpu",), kinds, USUAL, folder, threads=1)
    this_machine(("cpu",), kinds, narrow, folder)
    this_machine((), (GGMLType.IQ2_XS, GGMLType.Q8_0), narrow, folder)  # the first has no kernels of its own
    this_machine((), (GGMLType.F16,), replace(USUAL, n_embd=90), folder)
    wanted = [(("cpu",), kinds, USUAL), (("cpu",), kinds, WIDE)]
    assert asked[1:] == [*wanted, ((), (GGMLType.Q8_0,), narrow), ((), (GGMLType.F16,), narrow)]


def test_a_damaged_file_is_measured_anew(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    first = this_machine((), (GGMLType.F16,), USUAL, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert this_machine((), (GGMLType.F16,), USUAL, tmp_path) == first
    assert len(asked) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    file = tmp_path / "file"
    file.touch()
    this_machine((), (GGMLType.F16,), USUAL, file / "costs")
    this_machine((), (GGMLType.F16,), USUAL, file / "costs")
    assert len(asked) == 2
