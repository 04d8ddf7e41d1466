"""`powerinfer bench` as its user sees it."""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from powerinfer_cli.commands.bench import run
from powerinfer_cli.kernels.jit import RUNG
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.main_cli import Process, powerinfer

LLAMA_BENCH = [
    *("cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size", "model_n_params"),
    *("n_batch", "n_ubatch", "n_threads", "cpu_mask", "cpu_strict", "type_k", "type_v", "n_gpu_layers", "use_mmap"),
    *("n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts"),
]
OURS = [
    *("rung", "repack", "mlock", "reference", "spec_type", "draft_n", "draft_n_accepted"),
    *("bytes_per_token", "gb_per_s", "bandwidth_gb_per_s", "percent_of_bandwidth"),
    *("active_neurons", "predicted_neurons"),
    *("expert_hit_rate", "uploads", "uploaded_bytes"),
]
QUICK = ["-p", "8", "-n", "4", "-r", "2", "-t", "1"]


@pytest.fixture(autouse=True)
def _quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_bandwidth", lambda threads, cores: threads * 1e10)


def test_a_table_by_default(words: str) -> None:
    done = powerinfer("bench", "-m", words, *QUICK)
    assert (done.code, done.err.removeprefix("compiling kernels (once)\n")) == (0, "")
    lines = done.out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1  # columns stand under each other
    assert cells[0][:6] == ["model", "size", "params", "backend", "threads", "test"]
    assert set(cells[1]) <= {"-" * n + end for n in range(40) for end in ("", ":")}
    assert [row[5] for row in cells[2:]] == ["pp8", "tg4"]
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", cells[2][6])
    assert cells[2][7:11] == ["-"] * 4
    assert cells[3][9] == "10.0"


def test_a_table_tells_what_varies(words: str) -> None:
    done = powerinfer("bench", "-m", words, *QUICK, "-ub", "4,512", "-ctk", "f32")
    header = done.out.splitlines()[0]
    assert " n_ubatch " in header
    assert " type_k " in header
    assert " n_batch " not in header
    assert len(done.out.splitlines()) == 2 + 2 * 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], {"cpu_mask": "0x0", "cpu_strict": False, "use_mmap": False, "repack": True, "reference": False}),
        (["--no-repack"], {"use_mmap": True, "repack": False, "rung": str(RUNG)}),
        (["-C", "0x1", "--cpu-strict", "1"], {"cpu_mask": "0x1", "cpu_strict": True}),
        (["--mlock"], {"mlock": True}),
        (["--reference"], {"reference": True, "repack": False, "use_mmap": False, "rung": ""}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_rows_tell_how_they_were_measured(words: str, flags: list[str], told: dict[str, object]) -> None:
    before = os.sched_getaffinity(0)
    command = ["bench", "-m", words, "-p", "0", "-n", "1", "-r", "1", "-t", "1", *flags]
    try:
        (line,) = powerinfer(*command, "-o", "jsonl").out.splitlines()
        table = powerinfer(*command).out
    finally:
        os.sched_setaffinity(0, before)
    row = json.loads(line)
    assert {name: row[name] for name in told} == told
    header = [cell.strip() for cell in table.splitlines()[0].split("|")]
    optional = {"cpu_mask", "cpu_strict", "repack", "mlock", "reference"}
    usual = {"cpu_mask": "0x0", "cpu_strict": False, "repack": True, "mlock": False, "reference": False}
    shown = {name for name in optional if row[name] != usual[name]} - ({"repack"} if "--reference" in flags else set())
    assert optional & set(header) == shown


def test_json_has_llama_benchs_fields(words: str) -> None:
    done = powerinfer("bench", "-m", words, *QUICK, "-o", "json", "-d", "0,5")
    found = json.loads(done.out)
    assert [(r["n_prompt"], r["n_gen"], r["n_depth"]) for r in found] == [(8, 0, 0), (0, 4, 0), (8, 0, 5), (0, 4, 5)]
    for row in found:
        assert list(row) == [*LLAMA_BENCH, *OURS, "samples_ns", "samples_ts"]
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 2
        assert row["model_filename"] == words
        assert 0 < row["predicted_neurons"] <= 1
    for row in (found[1], found[3]):
        assert row["gb_per_s"] == pytest.approx(row["bytes_per_token"] * row["avg_ts"] / 1e9, rel=1e-6)
        assert row["percent_of_bandwidth"] == pytest.approx(row["gb_per_s"] * 10)


def test_json_lines_and_csv_tell_the_same(words: str) -> None:
    lines = powerinfer("bench", "-m", words, *QUICK, "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["n_gen"] for line in lines] == [0, 4]
    rows = list(csv.reader(powerinfer("bench", "-m", words, *QUICK, "-o", "csv").out.splitlines()))
    assert rows[0] == [*LLAMA_BENCH, *OURS]
    assert [row[rows[0].index("n_gen")] for row in rows[1:]] == ["0", "4"]
    assert rows[1][rows[0].index("bytes_per_token")] == ""


def test_every_model_and_thread_count(words: str, tmp_path: Path) -> None:
    _, dense = exact_sparse(n_layer=1)
    other = str(dense.write(tmp_path / "dense.gguf"))
    done = powerinfer("bench", "-m", f"{words},{other}", "-p", "0", "-n", "2", "-t", "1-2", "-r", "1", "-o", "json")
    found = json.loads(done.out)
    assert [(r["model_filename"], r["n_threads"]) for r in found] == [(m, t) for m in (words, other) for t in (1, 2)]
    assert found[2]["active_neurons"] is found[2]["predicted_neurons"] is None
    assert found[1]["bandwidth_gb_per_s"] == 20


def test_a_model_by_its_name(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "named.gguf").symlink_to(words)
    rows = powerinfer("bench", "-m", "nam", *QUICK, "-o", "jsonl").out.splitlines()
    assert [json.loads(row)["model_filename"] for row in rows] == ["models/named.gguf"] * 2


def test_more_threads_are_no_reason_to_load_again(words: str) -> None:
    done = powerinfer("bench", "-m", words, "-p", "0", "-n", "1", "-r", "1", "-t", "1,3", "-ub", "4,8", "--progress")
    heads = [line for line in done.err.splitlines() if not line.startswith("test ")]
    assert heads == [f"loading {words}, 1 thread", "now 3 threads"] * 2


def test_depth_costs_the_bytes_of_its_positions(tmp_path: Path) -> None:
    _, dense = exact_sparse(n_layer=3)
    model = str(dense.write(tmp_path / "dense.gguf"))
    done = powerinfer("bench", "-m", model, "-p", "0", "-n", "3", "-t", "1", "-r", "1", "-d", "0,7", "-o", "json")
    shallow, deep = (row["bytes_per_token"] for row in json.loads(done.out))
    assert deep - shallow == 7 * 3 * 2 * 32 * 2  # layers, keys and values, heads' width, float16


def test_prompt_and_generation_in_one(words: str) -> None:
    done = powerinfer("bench", "-m", words, "-p", "0", "-n", "0", "-pg", "6,3", "-r", "1", "-t", "1", "-o", "json")
    (row,) = json.loads(done.out)
    assert (row["n_prompt"], row["n_gen"]) == (6, 3)
    assert row["samples_ts"][0] == pytest.approx(9e9 / row["samples_ns"][0])


def test_progress_goes_to_stderr(words: str) -> None:
    done = powerinfer("bench", "-m", words, *QUICK, "-d", "3", "--progress", "-o", "jsonl")
    steps = ["warm-up", "depth", "run 1/2", "run 2/2"]
    tests = [f"test {i}/2, {name} @ d3: {step}" for i, name in ((1, "pp8"), (2, "tg4")) for step in steps]
    assert done.err.splitlines() == [f"loading {words}, 1 thread", *tests]
    quiet = powerinfer("bench", "-m", words, *QUICK, "--progress", "--no-warmup")
    assert "warm-up" not in quiet.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-p", "x"], "-p 'x': not a number"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-pg", "4"], "-pg '4': must be two numbers"),
        (["-ctk", "q2_k"], "-ctk 'q2_k': must be one of f32, f16, q8_0"),
        (["-t", "0"], "-t must be from 1 to 512, got 0"),
        (["-ub", "0"], "-ub must be from 1"),
        (["-o", "xml"], "'xml' is not one of"),
        (["-r", "0"], "-r must be"),
    ],
)
def test_usage_errors(words: str, args: list[str], message: str) -> None:
    done = powerinfer("bench", "-m", words, *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.error


def test_a_missing_model(tmp_path: Path) -> None:
    done = powerinfer("bench", "-m", str(tmp_path / "none.gguf"), *QUICK)
    assert done.code == 1
    assert "none.gguf" in done.error


def test_ctrl_c_ends_between_tokens_and_leaves_whole_json(words: str) -> None:
    args = ["-p", "8,9", "-n", "100", "-r", "100000", "-t", "1", "-o", "json", "--progress"]
    with Process("bench", "-m", words, *args) as running:
        running.wait_for("run 2/")
        running.interrupt()
        done = running.wait()
    assert done.code == 130
    assert json.loads(done.out) == []
    assert "Traceback" not in done.err
