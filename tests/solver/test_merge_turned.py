"""A dense model with exact zeros, its down matrices turned, without predictors."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.model import load_model, load_predictors
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.traffic import count_traffic
from solver.merge import merge
from solver.run import Making, make
from solver.stages import Place
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.predictor_files import save_predictors
from tests.helpers.rounding import check_logits

IDS = list(range(70))
OPTIONS = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32")


@pytest.fixture(params=["nemotron-biases", "nemotron_h"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def turned(name: str, tmp_path: Path) -> Path:
    dense = tiny_family(name).file.write(tmp_path / "dense.gguf")
    merge(open_gguf(dense), None, tmp_path / "turned.gguf", LoadEvents())
    return tmp_path / "turned.gguf"


def test_it_computes_the_same(name: str, turned: Path) -> None:
    family, gguf = tiny_family(name), open_gguf(turned)
    assert not gguf.sparse
    wanted = family.file.tensors["blk.1.ffn_down.weight"].T
    assert np.array_equal(gguf.tensors["blk.1.ffn_down_t.weight"].to_float32(), wanted)
    assert "blk.1.ffn_down.weight" not in gguf.tensors
    check_logits(Engine.load(gguf, OPTIONS).logits(PROMPT), family.reference)


def test_what_a_token_reads_is_counted(turned: Path) -> None:
    """All of up, and the rows of down whose neurons are not 0."""
    engine, model = Engine.load(open_gguf(turned), OPTIONS), load_model(open_gguf(turned))
    engine.prefill(PROMPT[:5])
    engine.stats.reset()
    for token in PROMPT[5:20]:
        engine.decode(token)
    active, predicted = engine.stats.mean_active, engine.stats.mean_predicted
    assert predicted == 1.0
    assert active is not None
    assert 0.2 < active < 0.8
    whole = load_model(open_gguf(turned.with_name("dense.gguf")))
    traffic, dense = (count_traffic(one, "f32", "f32", [0] * len(one.layers)) for one in (model, whole))
    down = sum(layer.ffn.neurons.down.weight.nbytes for layer in model.layers)
    saved = dense.per_token(10.0) - traffic.per_token(10.0, predicted, active)
    assert saved == pytest.approx((1 - active) * down, rel=0.02)  # biases go with the rows


def test_only_exact_zeros_are_turned(turned: Path) -> None:
    other = tiny_family("llama").file.write(turned.with_name("llama.gguf"))
    gaps = tiny_family("deci").file.write(turned.with_name("deci.gguf"))
    for source, problem in ((other, "never exactly 0"), (turned, "transposed already"), (gaps, "layers of nothing")):
        with pytest.raises(PowerInferError, match=problem):
            merge(open_gguf(source), None, turned.with_name("new.gguf"), LoadEvents())
    assert not turned.with_name("new.gguf").exists()


@pytest.mark.parametrize("tensor", ["blk.0.ffn_up.weight", "blk.1.ffn_down.weight"])
def test_no_file_is_made_of_weights_that_are_no_numbers(tmp_path: Path, tensor: str) -> None:
    file = exact_sparse(n_embd=64, n_ff=64, n_layer=2)[1]
    file.tensors[tensor].reshape(-1)[70] = np.nan
    with pytest.raises(PowerInferError, match=f"{tensor}, row 1: weights that are no numbers"):
        merge(file.open(tmp_path), None, tmp_path / "turned.gguf", LoadEvents())
    assert not (tmp_path / "turned.gguf").exists()


@pytest.mark.parametrize(("kind", "becomes"), [(GGMLType.Q4_0, GGMLType.Q8_0), (GGMLType.F16, GGMLType.F16)])
def test_turned_at_load_or_in_a_file_is_the_same(tmp_path: Path, kind: GGMLType, becomes: GGMLType) -> None:
    """To the bit."""
    dense = exact_sparse(n_embd=256, n_ff=256, n_layer=2)[1].stored_as(kind)
    rng = np.random.default_rng(5)
    pairs = [(rng.standard_normal((32, 256)), rng.standard_normal((256, 32))) for _ in range(2)]
    folder = save_predictors(tmp_path / "p", pairs)
    source = open_gguf(dense.write(tmp_path / "dense.gguf"))
    merge(source, folder, tmp_path / "merged.gguf", LoadEvents())
    merged = open_gguf(tmp_path / "merged.gguf")
    assert merged.tensors["blk.0.ffn_down_t.weight"].type is becomes
    beside = Engine.load(source, OPTIONS, predictors=load_predictors(folder, 256, [256] * 2)).logits(IDS)
    assert np.array_equal(Engine.load(merged, OPTIONS).logits(IDS), beside)


@pytest.mark.parametrize(("family", "advice"), [("nemotron_h", "--no-predictors --merge FILE"), ("mamba2", "in each")])
def test_layers_without_neurons_have_no_predictors(tmp_path: Path, family: str, advice: str) -> None:
    gguf = tiny_family(family).file.open(tmp_path)
    with pytest.raises(PowerInferError, match=f"layer 0 has no neurons: predictors are for models .*{advice}"):
        make(gguf, OPTIONS, Place(tmp_path), Making(), LoadEvents())
