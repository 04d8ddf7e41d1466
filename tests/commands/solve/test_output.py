"""The tables of `powerinfer solve`: whole at any width, and no row that says what the one above it says."""

import io
from typing import Any

import pytest

from powerinfer_cli.commands.shared.bars import stderr_console
from powerinfer_cli.commands.solve.console import make_console
from powerinfer_cli.commands.solve.output import tables

PARTS = ("attention", "predictor", "head", "kv", "scratch", "neurons", "total")


def layer(index: int, hot: int, gpu_ms: float = 0.31) -> dict[str, Any]:
    times = {"gpu_ms": gpu_ms, "cpu_ms": 12.3456, "total_ms": 12.4567}
    return {"layer": index, "device": 0, "hot": hot, "neurons": 11008, "covered": 1.0, **times}


def device(number: int, name: str, budget: int | None) -> dict[str, Any]:
    return {"device": number, "name": name, "budget": budget, **dict.fromkeys(PARTS, 12 << 30)}


def shown(
    layers: list[dict[str, Any]], width: int, gpus: int = 1, name: str = "NVIDIA GeForce RTX 3060 12 GB"
) -> list[str]:
    devices = [device(gpu, name, 12 << 30) for gpu in range(gpus)]
    plan = {"devices": [*devices, device(-1, "main memory", None)], "layers": layers}
    console = make_console(io.StringIO())
    console.width = width
    for table in tables(plan):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut(width: int, gpus: int) -> None:
    lines = shown([layer(index, 11008) for index in range(100)], width, gpus)
    text = " ".join("\n".join(lines).split())
    assert "\u2026" not in text
    assert all(len(line) <= width for line in lines)
    assert "layers on hot of all covered GPU ms CPU ms all ms" in text
    for word in ("3060", "12 GB", "main memory", "attention", "predictors", "KV cache", "12.00 GiB", "budget"):
        assert word in text


def test_layers_that_are_alike_share_a_row() -> None:
    layers = [layer(index, 11008) for index in range(30)]
    layers[12] = layer(12, 5000)
    rows = [line.split() for line in shown(layers, 80) if "GPU 0 " in line]
    assert [row[0] for row in rows] == ["0-11", "12", "13-29"]
    assert rows[1][1:] == ["GPU", "0", "5,000", "45.4%", "100.0%", "0.310", "12.346", "12.457"]


def test_a_difference_that_is_not_shown_is_none() -> None:
    rows = [
        line for line in shown([layer(index, 11008, 0.31 + index * 1e-6) for index in range(9)], 80) if "GPU 0 " in line
    ]
    assert len(rows) == 1


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """They come from files."""
    name = "a[/red] :key: [bold]b"
    assert any(name in line for line in shown([layer(0, 5)], 120, name=name))
    stderr_console().print(name)
    make_console().print(name)
    assert capsys.readouterr() == (f"{name}\n", f"{name}\n")
