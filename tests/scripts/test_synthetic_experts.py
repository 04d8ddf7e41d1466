"""Synthetic mixtures of experts: they run, experts are used as asked for, topics have experts of their own."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from scripts import make_synthetic
from scripts.synthetic.experts import ARCHITECTURES, CONSTANT, ExpertShape, router_rows, topic_of, write_experts
from tests.helpers.placing.route_traces import drawn_routes

SMALL = ExpertShape(embd=64, ff=32, layers=2, heads=4, kv=2, head_dim=16, experts=8, chosen=2, vocab=400, ctx=64)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("file_type", ["F32", "Q4_0", "Q4_K_M", "MXFP4"])
def test_models_run_and_add_nothing_to_the_topics(tmp_path: Path, arch: str, file_type: str) -> None:
    shape = replace(SMALL, topics=3, arch=arch, layers=4)  # of delta nets, the last has attention
    write_experts(tmp_path / "x.gguf", shape, file_type)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    file = open_gguf(tmp_path / "x.gguf")
    for layer in range(shape.layers):
        down = file.tensors[f"blk.{layer}.ffn_down_exps.weight"].to_float32().reshape(8, 64, 32)
        assert not down[:, :3].any()
        assert len({one.tobytes() for one in down}) == 8
        mixer = "ssm_out" if arch == "qwen35moe" and layer < 3 else "attn_output"
        assert not file.tensors[f"blk.{layer}.{mixer}.weight"].to_float32()[:3].any()
    logits = Engine.load(file, EngineOptions(n_threads=1)).prefill(list(range(5, 40)))
    assert np.isfinite(logits).all()


def choices(shape: ExpertShape, topic: int, tokens: int = 4000) -> np.ndarray:
    """How often each expert of layer 0 is chosen, by the router's rows and normed noise of a topic."""
    x = np.random.default_rng(1).standard_normal((tokens, shape.embd))
    x[:, : shape.topics] = 0
    x[:, topic] = CONSTANT
    x *= np.sqrt(shape.embd) / np.linalg.norm(x, axis=1, keepdims=True)
    chosen = np.argsort(-(x @ router_rows(shape, 0).T), axis=1)[:, : shape.chosen]
    return np.bincount(chosen.ravel(), minlength=shape.experts) / tokens


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_the_use_of_experts_follows_a_power_law(skew: float) -> None:
    shape = ExpertShape(embd=512, experts=64, chosen=1, skew=skew)
    assert slope(choices(shape, 0, 20000), 20) == pytest.approx(-skew, abs=0.3)


def test_a_files_recorded_use_follows_the_power_law_and_the_topic(tmp_path: Path) -> None:
    """Of every layer, by the engine itself: two topics, one behind the other, have other experts in the same shares."""
    shape = replace(SMALL, embd=256, layers=3, experts=32, chosen=1, skew=1.0, topics=2, ctx=2048)
    assert [topic_of(shape, token) for token in (0, 199, 200, 399)] == [0, 0, 1, 1]
    write_experts(tmp_path / "x.gguf", shape, "Q4_0")
    found: dict[int, list[np.ndarray]] = {}
    ids = np.concatenate([np.random.default_rng(2).integers(low, low + 200, 1000) for low in (0, 200)])
    with open_gguf(tmp_path / "x.gguf") as file:
        engine = Engine.load(file, EngineOptions(n_threads=1))
        engine.record_routes(
            ids.tolist(), lambda layer, chosen: found.setdefault(layer, []).append(chosen.ravel().copy())
        )
    for layer in range(3):
        chosen = np.concatenate(found[layer]).reshape(2, 1000)
        uses = [np.bincount(one, minlength=32) for one in chosen]
        for one in uses:
            assert slope(one, 12) == pytest.approx(-1.0, abs=0.35)
        assert spread(uses) < 0.5


def slope(use: np.ndarray, ranks: int) -> float:
    """Exponent of the power law of the most used ones."""
    most = np.sort(use)[::-1][:ranks]
    return float(np.polyfit(np.log(np.arange(1, ranks + 1)), np.log(most), 1)[0])


def spread(uses: list[np.ndarray]) -> float:
    """How alike two uses are: what they have in common, 0..1."""
    return float(np.minimum(*uses).sum() / uses[0].sum())


def test_drawn_routes_are_what_was_asked_for() -> None:
    """tests/helpers/placing/route_traces.py, for the solver's tests: power law, topics in turn, the same for a seed."""
    drawn = partial(drawn_routes, 4000, n_experts=64, n_chosen=1, layers=2, topics=2, stay=2000)
    trace = drawn(skew=1.0, seed=3)
    for chosen in trace.chosen:
        uses = [np.bincount(part.ravel(), minlength=64) for part in (chosen[:2000], chosen[2000:])]
        assert slope(uses[0], 12) == pytest.approx(-1.0, abs=0.2)
        assert spread(uses) < 0.5
    assert not np.array_equal(trace.chosen[0], trace.chosen[1])
    assert np.array_equal(trace.chosen[1], drawn(skew=1.0, seed=3).chosen[1])
    assert slope(drawn(skew=0.0).counts()[0], 20) == pytest.approx(0, abs=0.2)


def test_the_script_writes_and_refuses(tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    text = "--embd 64 --ff 32 --layers 1 --heads 4 --kv 2 --head-dim 16 --experts 4 --chosen 2 --vocab 300"
    sizes = text.split(" ")
    make_synthetic.main([str(out), *sizes, "--skew", "0", "--topics", "2"])
    assert open_gguf(out).metadata["general.architecture"] == "qwen3moe"
    for wrong in ("--chosen 5", "--skew -1", "--topics 33", "--head-dim 3", "--rank 16", "--ff 33", "--experts 0"):
        with pytest.raises(SystemExit, match=r"^error: --"):
            make_synthetic.main([str(tmp_path / "no.gguf"), *sizes, *wrong.split(" ")])
    with pytest.raises(SystemExit, match=r"^error: --skew is for models of --experts"):
        make_synthetic.main([str(tmp_path / "no.gguf"), "--skew", "1"])
