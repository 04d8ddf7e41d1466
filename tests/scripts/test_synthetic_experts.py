"""Synthetic mixtures of experts: they run, experts are used as asked for, topics have experts of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from scripts import make_synthetic
from scripts.synthetic.experts import ARCHITECTURES, CONSTANT, ExpertShape, router_rows, topic_of, write_experts

SMALL = ExpertShape(embd=64, ff=32, layers=2, heads=4, kv=2, head_dim=16, experts=8, chosen=2, vocab=400, ctx=64)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("file_type", ["F32", "Q4_0", "Q4_K_M", "MXFP4"])
def test_models_run_and_add_nothing_to_the_topics(tmp_path: Path, arch: str, file_type: str) -> None:
    shape = replace(SMALL, topics=3, arch=arch)
    write_experts(tmp_path / "x.gguf", shape, file_type)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    file = open_gguf(tmp_path / "x.gguf")
    for layer in range(shape.layers):
        down = file.tensors[f"blk.{layer}.ffn_down_exps.weight"].to_float32().reshape(8, 64, 32)
        assert not down[:, :3].any()
        assert len({one.tobytes() for one in down}) == 8
        assert not file.tensors[f"blk.{layer}.attn_output.weight"].to_float32()[:3].any()
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


def test_the_use_of_experts_follows_a_power_law() -> None:
    def slope(skew: float) -> float:
        shape = ExpertShape(embd=512, experts=64, chosen=1, skew=skew)
        use = np.sort(choices(shape, 0, 20000))[::-1][:20]
        return float(np.polyfit(np.log(np.arange(1, 21)), np.log(use), 1)[0])

    assert slope(1.0) == pytest.approx(-1.0, abs=0.3)
    assert slope(0.0) == pytest.approx(0.0, abs=0.3)


def test_each_topic_has_popular_experts_of_its_own() -> None:
    shape = ExpertShape(embd=256, experts=32, chosen=2, skew=1.0, topics=2, vocab=100)
    assert [topic_of(shape, token) for token in (0, 49, 50, 99)] == [0, 0, 1, 1]
    first, second = (np.argsort(-choices(shape, topic))[:6] for topic in range(2))
    assert len(set(first) & set(second)) < 5


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
