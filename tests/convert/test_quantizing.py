"""Quantised files: which tensors change, what they hold, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.convert.importance import Importance, Sums, read_importance, write_importance
from powerinfer_cli.convert.mixes import MIXES
from powerinfer_cli.convert.quantizing import Wishes, planned, write_quantized
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, WritableValue, dequantize, open_gguf, quantize, write_gguf
from powerinfer_cli.gguf_io.encoders import encode
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit

T = GGMLType
SHAPES = {
    "token_embd.weight": (40, 256),
    "output.weight": (40, 256),
    "blk.0.attn_norm.weight": (256,),
    "blk.0.attn_v.weight": (64, 256),
    "blk.0.ffn_gate_inp.weight": (4, 256),
    "blk.0.ffn_up_exps.weight": (4, 96, 256),
    "blk.0.ffn_down_exps.weight": (4, 256, 96),
}
IMPORTANCE = {"blk.0.ffn_up_exps.weight": np.arange(1, 4 * 256 + 1, dtype=np.float64).reshape(4, 256)}


def model(folder: Path, *, sparse: bool = False, kind: GGMLType = T.F16) -> Path:
    rng = np.random.default_rng(0)
    tensors = [
        (name, rng.standard_normal(shape).astype(np.float32), kind if len(shape) > 1 else T.F32)
        for name, shape in SHAPES.items()
    ]
    keys = {"llama.block_count": 1, "llama.expert_count": 4, "llama.attention.head_count": 4}
    path = folder / "model.gguf"
    write_gguf(path, arch="llama", metadata=keys, tensors=tensors, sparse=sparse)
    return path


def importance(folder: Path) -> Importance:
    path = folder / "imatrix.gguf"
    sums = {name: Sums(one * 3, np.full(4, 3)) for name, one in IMPORTANCE.items()}
    write_importance(path, sums, 7, 512, ["text"])
    return read_importance(path)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_file_of_another_type(tmp_path: Path, *, sparse: bool) -> None:
    path, out = model(tmp_path, sparse=sparse), tmp_path / "out.gguf"
    weights = importance(tmp_path)
    with open_gguf(path) as gguf:
        mix = MIXES["Q4_K_M"]
        changes = planned(gguf, Wishes(mix), weights)
        told: list[tuple[int, int]] = []
        write_quantized(gguf, out, changes, mix, importance=weights, threads=2, on_bytes=lambda *at: told.append(at))
        again = tmp_path / "again.gguf"
        write_quantized(gguf, again, changes, mix, importance=weights, threads=1)
        with open_gguf(out) as made:
            types = {name: one.type for name, one in made.tensors.items()}
            assert types == {
                "token_embd.weight": T.Q4_K,
                "output.weight": T.Q6_K,
                "blk.0.attn_norm.weight": T.F32,
                "blk.0.attn_v.weight": T.Q6_K,
                "blk.0.ffn_gate_inp.weight": T.F16,
                "blk.0.ffn_up_exps.weight": T.Q4_K,
                "blk.0.ffn_down_exps.weight": T.Q8_0,  # for Q6_K, as rows of 96 are no super-blocks
            }
            assert made.sparse is sparse
            assert made.get("general.file_type", int) == 15
            assert made.get("quantize.imatrix.chunks_count", int) == 7
            for name, expert in (("blk.0.ffn_up_exps.weight", 2), ("blk.0.ffn_down_exps.weight", 3)):
                values = gguf.tensors[name].to_float32()[expert]
                weight = weights.of[name][expert] if name in weights.of else None
                kind = types[name]
                wanted = quantize(values, kind) if weight is None else encode(values, kind, weight, fit=CompiledFit())
                rows = made.tensors[name].rows().reshape(4, len(values), -1)[expert]
                np.testing.assert_array_equal(rows, wanted)
    assert out.read_bytes() == again.read_bytes()
    assert told[-1][0] == told[-1][1] == sum(change.nbytes for change in changes)


def test_types_by_hand(tmp_path: Path) -> None:
    with open_gguf(model(tmp_path)) as gguf:
        wishes = Wishes(
            MIXES["Q4_0"],
            types=((re.compile(r"attn_v"), T.Q8_0), (re.compile(r"ffn_.*_exps"), T.Q5_0)),
            output=T.F32,
            embedding=T.BF16,
        )
        assert [change.kind.name for change in planned(gguf, wishes)] == [
            "BF16",
            "F32",
            "F32",
            "Q8_0",
            "F16",
            "Q5_0",
            "Q5_0",
        ]
        for mix in (MIXES["Q4_0"], MIXES["F16"], None):
            kept = planned(gguf, Wishes(mix, types=((re.compile(r"attn_v"), T.F32), (re.compile(r"up_exps"), T.Q8_0))))
            found = {change.tensor.name: change.kind for change in kept}
            assert (found["blk.0.attn_v.weight"], found["blk.0.ffn_up_exps.weight"]) == (T.F32, T.Q8_0)
            assert found["token_embd.weight"] is (T.Q4_0 if mix is MIXES["Q4_0"] else T.F16)
        pure = planned(gguf, Wishes(MIXES["Q4_K_M"], pure=True, leave_output=True))
        assert [change.kind.name for change in pure] == ["Q4_K", "F16", "F32", "Q4_K", "F16", "Q4_K", "Q5_0"]


def test_predictors_keep_more_bits(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    names = {"blk.0.fc1.weight": (32, 256), "blk.0.fc2.weight": (96, 32), "blk.0.ffn_down_t.weight": (96, 256)}
    tensors = [(name, np.ones(shape, np.float32), T.F16) for name, shape in names.items()]
    write_gguf(path, arch="llama", metadata={"llama.block_count": 1}, tensors=tensors, sparse=True)
    with open_gguf(path) as gguf:
        kinds = {mix: [change.kind.name for change in planned(gguf, Wishes(MIXES[mix]))] for mix in ("Q4_0", "Q6_K")}
    assert kinds == {"Q4_0": ["Q8_0", "Q8_0", "Q4_0"], "Q6_K": ["Q8_0", "Q8_0", "Q6_K"]}


def test_what_holds_no_weights_stays(tmp_path: Path) -> None:
    path, out = tmp_path / "odd.gguf", tmp_path / "out.gguf"
    shapes = {"a.weight": (64, 0), "b.weight": (0, 64), "c.weight": (2, 3, 2, 32), "d.weight": (2, 32)}
    tensors = [
        (name, np.ones(shape, np.float32 if name < "d" else np.int32), T.F32 if name < "d" else T.I32)
        for name, shape in shapes.items()
    ]
    write_gguf(path, arch="llama", metadata={}, tensors=tensors, sparse=False)
    mix = MIXES["Q4_0"]
    with open_gguf(path) as gguf:
        write_quantized(gguf, out, planned(gguf, Wishes(mix)), mix)
    with open_gguf(out) as made:
        assert [one.type for one in made.tensors.values()] == [T.F32, T.F32, T.Q4_0, T.I32]


def test_double_precision_is_no_loss(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 64))
    values[1, 5] = 1e300
    path, out = tmp_path / "doubles.gguf", tmp_path / "out.gguf"
    for stored, kind in ((values[::2], "Q4_0"), (values[::2], "Q4_K_M"), (values, "F32")):
        write_gguf(path, arch="llama", metadata={}, tensors=[("a.weight", stored, T.F64)], sparse=False)
        with open_gguf(path) as gguf:
            write_quantized(gguf, out, planned(gguf, Wishes(MIXES[kind])), MIXES[kind])
        with open_gguf(out) as made, np.errstate(over="ignore"):
            narrow, tensor = stored.astype(np.float32), made.tensors["a.weight"]
            wanted = narrow.view(np.uint8) if kind == "F32" else quantize(narrow, tensor.type)
            np.testing.assert_array_equal(tensor.rows(), wanted)


def split_model(folder: Path, *values: float) -> Path:
    """A part a value, each with a tensor of that value."""
    paths = [folder / f"m-{number:05d}-of-{len(values):05d}.gguf" for number in range(1, len(values) + 1)]
    for number, (path, value) in enumerate(zip(paths, values, strict=True)):
        count = {"split.count": np.uint16(len(values)), "split.tensors.count": np.int32(len(values))}
        tensors = [(f"{'abc'[number]}.weight", np.full((4, 64), value, np.float32), T.F32)]
        keys: dict[str, WritableValue] = {"split.no": np.uint16(number), **count}
        write_gguf(path, arch="llama", metadata=keys, tensors=tensors, sparse=False)
    return paths[0]


def test_parts_stay_parts(tmp_path: Path) -> None:
    mix = MIXES["Q8_0"]
    with open_gguf(split_model(tmp_path, 1, 1)) as gguf:
        changes = planned(gguf, Wishes(mix))
        written = write_quantized(gguf, tmp_path / "o.gguf", changes, mix, keep_split=True)
        assert [path.name for path in written] == ["o-00001-of-00002.gguf", "o-00002-of-00002.gguf"]
        whole = write_quantized(gguf, tmp_path / "o.gguf", changes, mix)
    for path in (written[1], *whole):
        with open_gguf(path) as made:
            assert [one.type for one in made.tensors.values()] == [T.Q8_0, T.Q8_0]
            assert np.allclose(dequantize(made.tensors["b.weight"].rows(), T.Q8_0), 1, rtol=1e-3)


def test_of_parts_all_or_none(tmp_path: Path) -> None:
    first = split_model(tmp_path, 1, np.inf)
    before, mix = sorted(tmp_path.iterdir()), MIXES["Q8_0"]
    with (
        open_gguf(first) as gguf,
        pytest.raises(PowerInferError, match=r"m-00002-of-00002\.gguf: b\.weight: .* not finite"),
    ):
        write_quantized(gguf, tmp_path / "o.gguf", planned(gguf, Wishes(mix)), mix, keep_split=True)
    assert sorted(tmp_path.iterdir()) == before


def refused(tmp_path: Path, wishes: Wishes, weights: Importance | None = None, kind: GGMLType = T.F16) -> str:
    with open_gguf(model(tmp_path, kind=kind)) as gguf, pytest.raises(PowerInferError) as error:
        write_quantized(gguf, tmp_path / "out.gguf", planned(gguf, wishes, weights), wishes.mix)
    assert not (tmp_path / "out.gguf").exists()
    return str(error.value)


def test_refused(tmp_path: Path) -> None:
    q4, q8 = Wishes(MIXES["Q4_0"]), MIXES["Q8_0"]
    assert "is Q8_0 already" in refused(tmp_path, q4, kind=T.Q8_0)
    assert "give --imatrix" in refused(tmp_path, Wishes(MIXES["Q2_K_S"]))
    assert "no tensor's name matches" in refused(tmp_path, Wishes(q8, types=((re.compile("attn_w"), T.Q4_0),)))
    other = Importance(Path("i.gguf"), {"blk.0.attn_v.weight": np.ones((1, 300), np.float32)}, 1)
    nobodys = Importance(Path("i.gguf"), {"blk.9.attn_v.weight": np.ones((1, 256), np.float32)}, 1)
    assert "i.gguf: knows no matrix of" in refused(tmp_path, q4, nobodys)
    assert "i.gguf: has 300 numbers for blk.0.attn_v.weight" in refused(tmp_path, q4, other)
    with open_gguf(model(tmp_path)) as gguf, pytest.raises(PowerInferError, match="is the input itself"):
        write_quantized(gguf, gguf.path, planned(gguf, q4), q4.mix)
