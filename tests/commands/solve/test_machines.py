"""`solve --machines` and `--measure-machine`, as they are typed."""

import json
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.cli import app
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model.ranges import read_ranges

MEMORY = {"memory_gib": 4, "memory_gb_s": 20}


def machines(folder: Path, *those: dict[str, Any]) -> str:
    path = folder / "machines.json"
    link = {"gbit_s": 10, "latency_us": 20}
    path.write_text(json.dumps({"format": "powerinfer machines 1", "link": link, "machines": those}))
    return str(path)


def test_measured_and_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled model by what this machine costs, beside one that is known by its memory."""
    costs = tmp_path / "own.json"
    app(["solve", "--measure-machine", str(costs), "-t", "1"], standalone_mode=False)
    entry = json.loads(capsys.readouterr().out)
    assert entry["costs"] == "own.json"
    assert 0 < entry["memory_gib"] < 1 << 20
    file = machines(tmp_path, entry | {"name": "here"}, {"name": "b", "host": "10.0.0.2", **MEMORY})
    app(["solve", "--machines", file, "-np", "4", "-c", "1024", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["texts"] == 4
    one, two = found["plans"]
    assert [part["name"] for part in two["machines"]] == ["here", "b"]
    assert two["machines"][0]["layers"][1] + 1 == two["machines"][1]["layers"][0]
    assert 0 < one["tokens_per_second_of_one_text"] < one["tokens_per_second"]
    app(["solve", "--machines", file, "-c", "1024"], standalone_mode=False)
    told = capsys.readouterr()
    assert "a second machine does not pay" in told.out
    assert "run it: powerinfer main -m " in told.err


def test_a_plan_that_cluster_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where one machine has no room for all of it."""
    small = {"memory_gib": 0.3, "memory_gb_s": 20}
    file = machines(tmp_path, {"name": "a", **small}, {"name": "b", **small})
    planned = ["-ctk", "q8_0", "-ctv", "f32", "-t", "2", "-tb", "1", "-b", "64", "-ub", "32"]
    app(["solve", "--machines", file, "-c", "20480", "--link-type", "bf16", *planned, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == 2, found
    words = found["command"].split()
    ranges = read_ranges(words[words.index("--layers") + 1])
    assert ranges[-1].end == 5
    assert words[words.index("--hosts") + 1] == "a,b"
    assert " ".join(words).endswith(f" {' '.join(planned)} -c 20480")
    assert words[words.index("--link-type") + 1] == "bf16"


def test_budgets_that_differ_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"memory_gib": 0.3, "memory_gb_s": 20}
    gpu = {"costs": "rtx-3090-ddr5", "vram_gib": [0.001]}
    file = machines(tmp_path, {"name": "a", **small, **gpu}, {"name": "b", **small})
    app(["solve", "--machines", file, "-c", "20480", "-ub", "32"], standalone_mode=False)
    command, shares = capsys.readouterr().err.splitlines()[-2:]
    assert command.endswith(" -ub 32 -c 20480 --vram-budget VRAM")
    assert shares == "VRAM is 0.001 on a, 0 on b"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-np", "4"], "say what --machines FILE plans for"),
        (["--machines", "m.json", "--measure-machine", "o.json"], "give one"),
        (["--machines", "m.json", "--plan-only"], "--machines makes no statistics"),
        (["--machines", "m.json", "--vram-budget", "4"], "leave flags for this one's GPUs out"),
        (["--machines", "m.json", "--report", "r.html"], "take --json"),
        (["--machines", "none.json"], "none.json: cannot read the machines"),
        (["--measure-machine", "o.json", "--device-profile", "rtx-3090-ddr5"], "measures this machine"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PowerInferError) as raised:
        app(["solve", *words], standalone_mode=False)
    assert line in str(raised.value)
