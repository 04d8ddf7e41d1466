"""The parts of `powerinfer bench`: lists of tests, bytes by hand arithmetic, figures, the bandwidth probe."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.commands.bench.bandwidth import measure_bandwidth
from powerinfer_cli.commands.bench.plan import Setup, Workload, parse_numbers, parse_pairs, setups, workloads
from powerinfer_cli.commands.bench.result import ModelFacts, Result, Where
from powerinfer_cli.commands.bench.run import how_run, open_bench, options_for
from powerinfer_cli.commands.shared.interrupts import Interrupt
from powerinfer_cli.errors import UsageError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model import load_model
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.traffic import Traffic, count_traffic
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["128"], [128]),
        (["128,512", "7"], [128, 512, 7]),
        (["1-4"], [1, 2, 3, 4]),
        (["0-1000+400,5"], [0, 400, 800, 5]),
        (["16-128*2"], [16, 32, 64, 128]),
        (["3-3"], [3]),
    ],
)
def test_lists_and_ranges(texts: list[str], numbers: list[int]) -> None:
    assert parse_numbers("-p", texts) == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1-", "5-3", "1-9+0", "1-9*1", "0-9*2", "1-99999999", "2.5"])
def test_lists_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match=r"^-p "):
        parse_numbers("-p", [text])


def test_numbers_have_their_bounds() -> None:
    assert parse_numbers("-t", ["1-2"], least=1, most=2) == [1, 2]
    for text in ("0", "3"):
        with pytest.raises(UsageError, match=f"^-t must be from 1 to 2, got {text}$"):
            parse_numbers("-t", [text], least=1, most=2)


def test_pairs() -> None:
    assert parse_pairs(["512,128", "1,0"]) == [(512, 128), (1, 0)]
    for text in ("5", "1,2,3", "a,1", "-1,2", ""):
        with pytest.raises(UsageError, match=r"^-pg "):
            parse_pairs([text])


def test_the_order_of_tests_is_llama_benchs() -> None:
    plan = workloads([64, 0, 128], [16], [(8, 4), (0, 0)], [0, 32])
    assert [test.name for test in plan] == [
        "pp64",
        "pp128",
        "tg16",
        "pp8+tg4",
        "pp64 @ d32",
        "pp128 @ d32",
        "tg16 @ d32",
        "pp8+tg4 @ d32",
    ]
    assert plan[-1].n_ctx == 8 + 4 + 32


def test_every_combination_model_by_model() -> None:
    a, b = Path("a"), Path("b")
    found = setups(models=[a, b], batches=[8], ubatches=[4], types_k=["f16"], types_v=["f16", "q8_0"], threads=[1, 2])
    assert [(s.model, s.type_v, s.n_threads) for s in found] == [
        (model, kind, threads) for model in (a, b) for kind in ("f16", "q8_0") for threads in (1, 2)
    ]


def traffic(model: ModelFile, folder: Path, asked: list[int], type_k: str = "f16", type_v: str = "f16") -> Traffic:
    gguf = model.open(folder)
    return count_traffic(load_model(gguf), type_k, type_v, asked)


# Of exact_sparse: n_embd 64, n_ff 200, 3 layers, rank 9 (hidden 18), 80 tokens, 4 heads of 16, 2 for keys and values.
ROW = 64 * 4
NORMS = 2 * ROW
ATTENTION = (64 + 32 + 32 + 64) * ROW
ENDS = ROW + ROW + 80 * ROW  # one row of the embedding, the output norm, the output


def test_bytes_of_a_dense_model(tmp_path: Path) -> None:
    _, dense = exact_sparse()
    found = traffic(dense, tmp_path, [200] * 3)
    assert found.always == ENDS + 3 * (NORMS + ATTENTION + 3 * 200 * ROW)
    assert (sum(found.gate), sum(found.neurons)) == (0, 0)
    assert found.position == {None: 3 * 2 * 32 * 2}
    assert found.per_token(10) == found.always + 10 * 384


def test_bytes_of_a_sparse_model(tmp_path: Path) -> None:
    sparse, _ = exact_sparse()
    found = traffic(sparse, tmp_path, [200, 150, 0])
    predictors = 3 * 18 * ROW + (200 + 150) * 18 * 4
    assert found.always == ENDS + 3 * (NORMS + ATTENTION) + predictors
    assert (sum(found.gate), sum(found.neurons)) == (3 * 200 * ROW, 3 * 2 * 200 * ROW)
    assert found.per_token(0.5, 0.25, 0.125) == found.always + 192 + 150 * ROW + 150 * ROW


def test_bytes_of_a_model_that_is_sparse_in_some_layers(tmp_path: Path) -> None:
    """The first has a predictor, the second runs dense, the third skips zeros alone."""
    sparse, dense = exact_sparse()
    changes = {f"blk.{layer}.{name}.weight": None for layer in (1, 2) for name in ("fc1", "fc2")}
    down = {"blk.1.ffn_down_t.weight": None, "blk.1.ffn_down.weight": dense.tensors["blk.1.ffn_down.weight"]}
    mixed = sparse.with_tensors({**changes, **down})
    mixed = replace(mixed, metadata={**mixed.metadata, "powerinfer.dense_layers": np.array([1, 2], np.int32)})
    found, part = traffic(mixed, tmp_path, [200] * 3), 200 * ROW
    assert found.always == ENDS + 3 * (NORMS + ATTENTION) + 18 * ROW + 200 * 18 * 4 + 3 * part + part
    assert found.gate == (part, 0, 0)
    assert found.neurons == (2 * part, 0, 2 * part)
    shares = np.array([0.5, 1, 1]), np.array([0.25, 1, 0.125])
    assert found.per_token(0, *shares) == found.always + 0.5 * part + 0.25 * 2 * part + 0.125 * 2 * part


def test_bytes_of_experts(tmp_path: Path) -> None:
    """Router, shared expert, and as many experts as are chosen: of 8 experts of 40 neurons 3, n_embd 64."""
    plain, shared = (traffic(tiny_family(name).file, tmp_path, [320] * 4) for name in ("qwen3moe", "qwen2moe"))
    norms, heads, attention = NORMS, 2 * 24 * 4, (2 * 96 + 2 * 48) * ROW
    ends = ROW + ROW + 96 * ROW
    assert plain.always == ends + 4 * (norms + heads + attention + 8 * ROW + 3 * 3 * 40 * ROW)
    biases, own = (64 + 32 + 32) * 4, 3 * 72 * ROW + ROW
    assert shared.always == ends + 4 * (norms + ATTENTION + biases + own + 8 * ROW + 3 * 3 * 40 * ROW)
    assert (sum(plain.gate), sum(plain.neurons)) == (0, 0)


@pytest.mark.parametrize(("name", "numbers"), [("qwen35", 3 * 192 + 4 * 24 * 32), ("lfm2", 3 * 80)])
def test_bytes_of_states(tmp_path: Path, name: str, numbers: int) -> None:
    """Of three layers, read and written: 3 inputs of a convolution; 4 heads of 24 rows, 24 columns in vectors of 16."""
    gguf = tiny_family(name).file.open(tmp_path)
    model = load_model(gguf)
    table = gguf.tensors["token_embd.weight"].nbytes
    weights = sum(tensor.nbytes for tensor in gguf.tensors.values())
    weights += table // 96 - (table if "output.weight" in gguf.tensors else 0)
    assert count_traffic(model, "f16", "f16", model.n_groups).always == weights + 2 * 3 * 4 * numbers


def test_bytes_are_those_of_the_stored_types(tmp_path: Path) -> None:
    _, dense = exact_sparse(n_ff=192)
    plain = traffic(dense, tmp_path, [192] * 3)
    norms = (3 * 2 + 1) * ROW
    stored = traffic(dense.stored_as(GGMLType.Q8_0), tmp_path, [192] * 3, "q8_0", "f32")
    assert stored.always - norms == (plain.always - norms) // 4 * 34 // 32
    assert stored.position == {None: 3 * (34 + 32 * 4)}


def test_windows_bound_what_is_read_of_a_context(tmp_path: Path) -> None:
    found = traffic(tiny_family("gemma3").file, tmp_path, [0] * 7)
    one = 2 * 2 * 24 * 2  # keys and values of two heads
    assert found.position == {16: 6 * one, None: one}
    assert found.per_token(10) - found.always == 70 * one
    assert found.per_token(100) - found.always == (6 * 16 + 100) * one


def test_each_run_begins_behind_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where windows have lost what they would need to go back there; none of it is evaluated again."""
    path = tiny_family("gemma3").file.write(tmp_path / "tiny.gguf")
    setup, test = Setup(path, 2048, 32, "f16", "f16", 1), Workload(400, 2, 300)
    counts: list[int] = []
    forward = Engine._forward

    def counted(engine: Engine, parts: list[tuple[int, list[int]]], *more: Any, **asked: Any) -> object:
        counts.append(len(parts[0][1]))
        return forward(engine, parts, *more, **asked)

    monkeypatch.setattr(Engine, "_forward", counted)
    with Interrupt() as interrupt:
        bench = open_bench(setup, options_for(setup, test.n_ctx), interrupt, LoadEvents())
        bench.run(test, 3, warmup=False, progress=lambda line: None)
    assert sum(counts) == 300 + 3 * 402
    assert list(bench.engine.tokens) == bench._ids(test)


def test_a_tied_head_is_read_whole(tmp_path: Path) -> None:
    _, dense = exact_sparse()
    tied = traffic(dense.with_tensors({"output.weight": None}), tmp_path, [200] * 3)
    assert tied == traffic(dense, tmp_path, [200] * 3)


def result(**changes: object) -> Result:
    values = {
        "setup": Setup(Path("m.gguf"), 2048, 512, "f16", "f16", 2),
        "how": how_run(EngineOptions()),
        "facts": ModelFacts("llama 1.1B Q4_0", 1 << 30, 1_100_000_000),
        "where": Where(),
        "test": Workload(0, 10, 0),
        "test_time": "2026-01-01T00:00:00Z",
        "samples_ns": [10**9, 2 * 10**9],
        "bytes_per_token": 3e9,
        "bandwidth": 30e9,
        "active": None,
        "predicted": None,
    }
    return Result(**(values | changes))  # type: ignore[arg-type]  # a test's table


def test_figures_by_hand() -> None:
    fields = result().fields()
    assert (fields["avg_ns"], fields["stddev_ns"]) == (1_500_000_000, round(statistics.stdev([1e9, 2e9])))
    assert (fields["avg_ts"], fields["stddev_ts"]) == (7.5, pytest.approx(statistics.stdev([10, 5])))
    assert (fields["gb_per_s"], fields["percent_of_bandwidth"]) == (22.5, 75)
    assert result().samples() == {"samples_ns": [10**9, 2 * 10**9], "samples_ts": [10, 5]}
    assert result(samples_ns=[5]).stddev_ts == 0


def test_what_is_not_known_is_nothing() -> None:
    fields = result(bytes_per_token=None, bandwidth=None).fields()
    assert fields["gb_per_s"] is fields["percent_of_bandwidth"] is fields["bytes_per_token"] is None


@pytest.mark.parametrize("threads", [1, 3])
def test_the_probe_reads_all_of_its_buffer(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(np.arange(100) * 0.5)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert measure_bandwidth(threads, size=8 * 1000) == 8 * 1000 / 0.5
