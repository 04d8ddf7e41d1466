"""Measured costs are kept, and measured anew where the question is another or the file is damaged."""

from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.gguf_io import GGMLType
from solver.placing import kept_costs
from solver.placing.device_profile import DeviceProfile, load_profile
from solver.placing.kept_costs import this_machine


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def measured(devices: Any, kinds: Any, n_embd: int, **_: Any) -> DeviceProfile:
        calls.append((tuple(devices), tuple(kinds), n_embd))
        return load_profile("rtx-3090-ddr5")

    monkeypatch.setattr(kept_costs, "measure_machine", measured)
    return calls


def test_costs_are_measured_once(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    folder = tmp_path / "costs"
    first = this_machine(("cpu",), GGMLType.Q4_0, 4096, folder)
    assert this_machine(("cpu",), GGMLType.Q4_0, 4096, folder) == first
    assert asked == [(("cpu",), (GGMLType.Q4_0,), 4096)]
    this_machine(("cpu",), GGMLType.Q4_0, 4096, folder, anew=True)
    assert asked.pop() == asked[0]
    assert first.note.startswith("Measured: ")
    assert first.note.endswith(", cpu")
    this_machine(("cpu",), GGMLType.Q4_0, 4096, folder, threads=1)
    this_machine((), GGMLType.IQ2_XS, 96, folder)  # without kernels of its own, and narrow
    assert asked[1:] == [(("cpu",), (GGMLType.Q4_0,), 4096), ((), (GGMLType.Q8_0,), 1024)]


def test_a_damaged_file_is_measured_anew(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    first = this_machine((), GGMLType.F16, 4096, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert this_machine((), GGMLType.F16, 4096, tmp_path) == first
    assert len(asked) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    file = tmp_path / "file"
    file.touch()
    this_machine((), GGMLType.F16, 4096, file / "costs")
    this_machine((), GGMLType.F16, 4096, file / "costs")
    assert len(asked) == 2
