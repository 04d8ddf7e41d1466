"""Synthetic models: twins that hold the same numbers, exact predictors, wanted rates, encoders that gguf can read."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, GGUFFile, open_gguf
from powerinfer_cli.placement import find_statistics, load_statistics
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.text import Tokenizer
from scripts import make_synthetic
from scripts.synthetic.k_quants import quantize_q4_k, quantize_q6_k
from scripts.synthetic.model import write_model
from scripts.synthetic.statistics import write_statistics
from scripts.synthetic.types import tensor_type
from scripts.synthetic.vocabulary import make_vocabulary
from scripts.synthetic.weights import Shape, activation_rates, shuffle

SMALL = Shape(embd=64, ff=512, layers=3, heads=4, kv=2, rank=16, vocab=400, ctx=64, sparsity=0.85)


def twins(folder: Path, shape: Shape, file_type: str) -> tuple[GGUFFile, GGUFFile]:
    for name, dense in (("sparse.gguf", False), ("dense.gguf", True)):
        write_model(folder / name, shape, file_type, dense=dense)
    assert sorted(path.name for path in folder.iterdir()) == ["dense.gguf", "sparse.gguf"]
    return open_gguf(folder / "sparse.gguf"), open_gguf(folder / "dense.gguf")


def test_twins_hold_the_same_numbers(tmp_path: Path) -> None:
    sparse, dense = twins(tmp_path, SMALL, "F32")
    assert (sparse.sparse, dense.sparse) == (True, False)
    for name, tensor in dense.tensors.items():
        if "ffn_down" in name:
            other = sparse.tensors[name.replace("ffn_down", "ffn_down_t")].to_float32().T
        else:
            other = sparse.tensors[name].to_float32()
        np.testing.assert_array_equal(tensor.to_float32(), other)


@pytest.mark.parametrize(
    "shape",
    [Shape(**{**vars(SMALL), "ff": 1280}), Shape(**{**vars(SMALL), "ff": 96}), Shape(**{**vars(SMALL), "ff": 76})],
)
def test_layers_are_shuffles_of_each_other_and_no_two_alike(tmp_path: Path, shape: Shape) -> None:
    _, dense = twins(tmp_path, shape, "F32")
    downs = [dense.tensors[f"blk.{layer}.ffn_down.weight"].to_float32() for layer in range(shape.layers)]
    assert not np.array_equal(downs[0], downs[1])
    for layer, down in enumerate(downs):
        back = np.argsort(shuffle(shape, layer, "down"))
        np.testing.assert_array_equal(down[:, back], downs[0][:, np.argsort(shuffle(shape, 0, "down"))])


@pytest.mark.parametrize("file_type", ["F16", "Q4_0", "Q8_0", "Q4_K_M"])
def test_shuffled_bytes_are_the_bytes_of_shuffled_numbers(tmp_path: Path, file_type: str) -> None:
    shape = Shape(**{**vars(SMALL), "embd": 256})
    exact = {name: t.to_float32() for file in twins(tmp_path, shape, "F32") for name, t in file.tensors.items()}
    tolerance = {"F16": 1e-3, "Q8_0": 8e-3}.get(file_type, 0.1)  # of the largest number in a block
    for file in twins(tmp_path, shape, file_type):
        for name, tensor in file.tensors.items():
            want = exact[name].reshape(-1, 32)
            error = np.abs(tensor.to_float32().reshape(-1, 32) - want)
            assert (error <= 2 * tolerance * np.abs(want).max(axis=1, keepdims=True) + 1e-7).all(), name


def test_predictors_are_exact_and_rates_as_asked_for(tmp_path: Path) -> None:
    sparse, _ = twins(tmp_path, SMALL, "F32")
    engine = Engine.load(sparse, EngineOptions(n_threads=1, reference=True))
    engine.prefill(list(range(5, 60)))
    assert engine.stats.fired == pytest.approx(engine.stats.predicted, rel=1e-3)
    assert engine.stats.mean_active == pytest.approx(0.15, abs=0.02)


def test_statistics_say_what_fires(tmp_path: Path) -> None:
    sparse, _ = twins(tmp_path, SMALL, "F32")
    write_statistics(tmp_path / "sparse.gguf", SMALL)
    folder = find_statistics(tmp_path / "sparse.gguf")
    assert folder is not None
    known = load_statistics(folder, [SMALL.ff] * SMALL.layers)
    assert known.tokens == 100_000
    fired = [np.zeros(SMALL.ff) for _ in range(SMALL.layers)]
    engine = Engine.load(sparse, EngineOptions(n_threads=1, reference=True))

    def count(layer: int, _x: np.ndarray, activations: np.ndarray) -> None:
        fired[layer] += (activations > 0).sum(axis=0)

    engine.record(list(range(5, 60)), count)
    for layer in range(SMALL.layers):
        assert np.corrcoef(fired[layer], known.uses(layer))[0, 1] > 0.8
        activity = known.activity(layer)
        assert activity is not None
        assert not activity.always.any()


def test_the_vocabulary_reads_what_it_writes(tmp_path: Path) -> None:
    sparse, _ = twins(tmp_path, SMALL, "F32")
    tokenizer = Tokenizer.from_gguf(sparse)
    ids = tokenizer.encode("The fox, again.", add_special=True, parse_special=False)
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode(ids[1:]) == "The fox, again."


@pytest.mark.parametrize("size", [3, 100, 300, 5000])
def test_vocabularies_of_any_size(size: int) -> None:
    made = make_vocabulary(size, seed=1)
    assert len(made.pieces) == len(made.scores) == len(made.types) == len(set(made.pieces)) == size


@pytest.mark.parametrize("sparsity", [0.7, 0.9, 0.97])
def test_rates_are_a_falling_power_law_with_the_wanted_mean(sparsity: float) -> None:
    rates = activation_rates(5632, sparsity)
    assert rates.mean() == pytest.approx(1 - sparsity, abs=1e-3)
    assert (np.diff(rates) <= 0).all()
    assert rates.min() >= 1e-4


@pytest.mark.parametrize(
    ("kind", "encode", "bits"),
    [(gguf.GGMLQuantizationType.Q4_K, quantize_q4_k, 4), (gguf.GGMLQuantizationType.Q6_K, quantize_q6_k, 6)],
)
def test_k_quants_decode_close_to_what_was_encoded(kind: gguf.GGMLQuantizationType, encode: object, bits: int) -> None:
    assert callable(encode)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 768)).astype(np.float32)
    x[1] *= 1e-3
    x[2] = np.abs(x[2]) + 1  # no negative number
    x[3] = 0
    x[4, :256] *= np.repeat(10.0 ** rng.uniform(-2, 1, 8), 32)  # sub-blocks of other sizes
    decoded = gguf.quants.dequantize(encode(x), kind)
    sub_blocks = (x - np.minimum(x, 0)).reshape(7, 3, 256)  # the scale of a block bounds the error
    step = 2 * np.abs(x).reshape(sub_blocks.shape).max(axis=2, keepdims=True) / 2**bits
    assert (np.abs(decoded - x).reshape(sub_blocks.shape) <= 0.8 * step + 1e-9).all()
    np.testing.assert_array_equal(decoded[3], 0)


def test_the_mix_is_llama_cpps() -> None:
    def kind(name: str, columns: int = 2048) -> GGMLType:
        return tensor_type(name, columns, 22, "Q4_K_M")

    assert kind("output.weight") is GGMLType.Q6_K
    assert kind("token_embd.weight") is GGMLType.Q4_K
    more = [layer for layer in range(22) if kind(f"blk.{layer}.ffn_down_t.weight") is GGMLType.Q6_K]
    assert more == [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]  # as in llama.cpp's own Q4_K_M files of 22 layers
    assert kind("blk.0.attn_q.weight") is GGMLType.Q4_K
    assert kind("blk.0.attn_v.weight", 96) is GGMLType.Q8_0
    assert tensor_type("blk.0.ffn_up.weight", 96, 22, "Q8_0") is GGMLType.Q8_0


def test_the_script_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.gguf"
    sizes = [
        "--embd",
        "64",
        "--ff",
        "96",
        "--layers",
        "1",
        "--heads",
        "4",
        "--kv",
        "4",
        "--rank",
        "16",
        "--vocab",
        "300",
    ]
    make_synthetic.main([str(out), *sizes, "--seed", "3"])
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert open_gguf(out).sparse
    for wrong in (
        ["--kv", "3"],
        ["--heads", "5"],
        ["--sparsity", "1"],
        ["--ff", "100"],
        ["--rank", "9"],
        ["--shape", "gpt-oss-20b"],
    ):
        with pytest.raises(SystemExit, match=r"^error: --"):
            make_synthetic.main([str(tmp_path / "no.gguf"), *sizes, *wrong])
    with pytest.raises(SystemExit, match=r"^error: .*No such file"):
        make_synthetic.main([str(tmp_path / "no" / "x.gguf"), *sizes])
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
