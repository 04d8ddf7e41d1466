"""A plan's file: as the original reads it, as we do, and what is refused."""

import errno
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, write_gguf
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    Conditions,
    LayerPlacement,
    Plan,
    all_neurons,
    gpuidx_path,
    no_neurons,
    read_gpuidx,
    stale_reason,
    write_gpuidx,
)

N_FF = 11
MADE = Conditions("f" * 32, (1 << 33, 1 << 34), 4096, "f16", "q8_0", 5, 40, (1.0, 0.1), "s" * 32, "here", 4224)
PLAN = Plan(
    MADE.budgets,
    (
        LayerPlacement(MAIN_MEMORY, no_neurons()),
        LayerPlacement(0, np.array([0, 3, 10], np.int32)),
        LayerPlacement(1, all_neurons(N_FF), pages=7),
        LayerPlacement(1, no_neurons(), pages=0),
    ),
    1,
    "milp",
    MADE.fingerprint,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = gpuidx_path(tmp_path / "model.powerinfer.gguf")
    write_gpuidx(path, PLAN, MADE, [N_FF] * 4, 1234)
    return path


def test_its_name(tmp_path: Path) -> None:
    assert gpuidx_path(Path("a/m.gguf")) == Path("a/m.gguf.generated.gpuidx")


def test_read_back(path: Path) -> None:
    index = read_gpuidx(path, [N_FF] * 4)
    assert index.conditions == MADE
    assert index.vram_capacity == 1234
    assert [layer.device for layer in index.plan.layers] == [-1, 0, 1, 1]
    assert [layer.pages for layer in index.plan.layers] == [None, None, 7, 0]
    for layer, wanted in zip(index.plan.layers, PLAN.layers, strict=True):
        assert layer.hot.dtype == np.int32
        assert layer.hot.tolist() == wanted.hot.tolist()
    assert (index.plan.output, index.plan.solver, index.plan.budgets) == (1, "milp", MADE.budgets)
    assert index.plan.fingerprint == MADE.fingerprint


def test_nothing_optional(path: Path) -> None:
    made = Conditions("f", (), 0, "f32", "f32")
    plan = Plan((), (LayerPlacement(MAIN_MEMORY, no_neurons()),), MAIN_MEMORY, "layers", "f")
    write_gpuidx(path, plan, made, [N_FF], 0)
    assert read_gpuidx(path, [N_FF]).conditions == made


class Original:
    """What PowerInfer's own loader makes of a file: ggml of 2023, which knows types 0 to 18, and 18 as int32."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        assert self.take("<4sI") == (b"PWRI", 3)
        n_tensors, n_keys = self.take("<QQ")
        self.keys = {self.string(): self.value(*self.take("<I")) for _ in range(n_keys)}
        infos = [self.info() for _ in range(n_tensors)]
        base = -(-self.at // 32) * 32
        self.tensors = [
            (name, np.frombuffer(content[base + start :][: 4 * size], "<i4")) for name, size, start in infos
        ]

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return found

    def string(self) -> str:
        (size,) = self.take("<Q")
        return self.take(f"<{size}s")[0].decode()

    def value(self, kind: int) -> tuple[int, Any]:
        if kind == 8:
            return kind, self.string()
        if kind == 9:
            item, count = self.take("<IQ")
            return kind, [self.value(item)[1] for _ in range(count)]
        return kind, self.take("<" + "BbHhIif?sxQqd"[kind])[0]

    def info(self) -> tuple[str, int, int]:
        name = self.string()
        n_dims, size, kind, start = self.take("<IQIQ")
        assert (n_dims, kind) == (1, 18)
        assert start % 32 == 0
        return name, size, start


def test_the_original_can_read_it(path: Path) -> None:
    """llama_gpu_split_loader: UINT64 capacity; two tensors a layer, alternating, by their place in the file."""
    original = Original(path.read_bytes())
    assert original.keys["general.architecture"] == (8, "generic.gpu_index")
    assert original.keys["generic.gpu_index.block_count"] == (4, 4)
    assert original.keys["split.vram_capacity"] == (10, 1234)
    assert len(original.tensors) == 2 * len(PLAN.layers)
    for index, layer in enumerate(PLAN.layers):
        (name, chosen), (bucket_name, bucket) = original.tensors[2 * index : 2 * index + 2]
        assert (name, bucket_name) == (f"blk.{index}.gpu_idx", f"blk.{index}.gpu_bucket")
        assert chosen.size == N_FF
        assert bucket.tolist() == layer.hot.tolist() == np.flatnonzero(chosen).tolist()
        assert set(chosen.tolist()) <= {0, 1}


def write_raw(path: Path, keys: Mapping[str, Any], chosen: Any, bucket: Any, **changes: Any) -> None:
    metadata = {"generic.gpu_index.block_count": 1, "split.vram_capacity": np.uint64(77), **keys}
    tensors = [
        ("blk.0.gpu_idx", np.array(chosen), GGMLType.I32),
        ("blk.0.gpu_bucket", np.array(bucket, np.int32), GGMLType.I32),
    ]
    write_gguf(
        path, **{"arch": "generic.gpu_index", "metadata": metadata, "tensors": tensors, "sparse": True} | changes
    )


def test_the_originals_own_file(path: Path) -> None:
    write_raw(path, {}, np.array([0, 1, 1], np.int32), [1, 2])
    index = read_gpuidx(path, [3])
    assert index.conditions is None
    assert index.plan.layers[0].hot.tolist() == [1, 2]
    assert index.vram_capacity == 77
    assert "the original PowerInfer made it" in str(stale_reason(index.conditions, MADE))


def refusal(path: Path, n_layer: int = 4, n_ff: int = N_FF) -> str:
    with pytest.raises(PowerInferError) as caught:
        read_gpuidx(path, [n_ff] * n_layer)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_of_another_model(path: Path) -> None:
    assert "of 4 layers, but the model has 5" in refusal(path, 5)
    assert "of 4 layers, but the model has 3" in refusal(path, 3)
    assert "layer 0 has 11 neurons, but the model's have 12" in refusal(path, n_ff=12)


def test_cut_short_anywhere(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(0, len(whole) - 64, 7):  # the last tensor is empty, and the one before it all of a layer
        path.write_bytes(whole[:size])
        refusal(path)


def test_a_model_is_no_index(path: Path) -> None:
    write_raw(path, {}, np.zeros(3, np.int32), [], arch="llama")
    assert "not a GPU index" in refusal(path)
    path.unlink()
    assert "cannot be opened" in refusal(path)


OURS: dict[str, Any] = {
    "powerinfer.plan.fingerprint": "f",
    "powerinfer.plan.solver": "milp",
    "powerinfer.plan.layer_devices": np.array([0], np.int32),
    "powerinfer.plan.output_device": np.int32(0),
    "powerinfer.plan.budgets": np.array([100], np.uint64),
    "powerinfer.plan.n_ctx": 1,
    "powerinfer.plan.type_k": "f16",
    "powerinfer.plan.type_v": "f16",
    "powerinfer.plan.scratch": 0,
    "powerinfer.plan.statistics": "",
    "powerinfer.plan.profile": "",
}
GOOD = ([0, 1, 1], [1, 2])


@pytest.mark.parametrize(
    ("chosen", "bucket", "keys", "message"),
    [
        ([0, 1, 2], [1, 2], {}, "do not name the same"),
        ([0, 1, -1], [1], {}, "do not name the same"),
        ([0, 1, 1], [2, 1], {}, "do not name the same"),
        ([0, 1, 1], [1], {}, "do not name the same"),
        ([0, 0, 0], [-5], {}, "do not name the same"),
        ([0, 1, 1], [1, 2**31 - 1], {}, "do not name the same"),
        (*GOOD, {"layer_devices": np.array([1], np.int32)}, "none of the 1"),
        (*GOOD, {"layer_devices": np.array([-1], np.int32)}, "in main memory has no hot"),
        (*GOOD, {"layer_devices": np.array([0, 0], np.int32)}, "must be 1 integers"),
        (*GOOD, {"layer_devices": ["x"]}, "must be 1 integers"),
        (*GOOD, {"layer_devices": 0}, "is int, not list"),
        (*GOOD, {"output_device": np.int32(-2)}, "none of the 1"),
        (*GOOD, {"budgets": [0.5]}, "must be integers"),
        (*GOOD, {"budgets": [-1]}, "a budget is negative"),
        (*GOOD, {"shares": [1.0, float("nan")]}, "must be numbers"),
        (*GOOD, {"solver": "x\ny"}, "no solver"),
        (*GOOD, {"n_ctx": "4096"}, "is str, not int"),
    ],
)
def test_hostile(path: Path, chosen: Any, bucket: Any, keys: dict[str, Any], message: str) -> None:
    ours = OURS | {f"powerinfer.plan.{key}": value for key, value in keys.items()}
    write_raw(path, ours, np.array(chosen, np.int32), bucket)
    assert message in refusal(path, 1, 3)


def test_what_is_hostile_is_only_what_was_changed(path: Path) -> None:
    write_raw(path, OURS, np.array(GOOD[0], np.int32), GOOD[1])
    assert read_gpuidx(path, [3]).conditions == Conditions("f", (100,), 1, "f16", "f16")


def test_tensors_that_are_no_index(path: Path) -> None:
    bucket = ("blk.0.gpu_bucket", np.zeros(0, np.int32), GGMLType.I32)
    for chosen, message in [
        (("blk.0.gpu_idx", np.zeros((1, 3), np.int32), GGMLType.I32), "no vector of integers"),
        (("blk.0.gpu_idx", np.zeros(3, np.float32), GGMLType.F32), "no vector of integers"),
        (("blk.1.gpu_idx", np.zeros(3, np.int32), GGMLType.I32), "blk.0.gpu_idx is missing"),
    ]:
        write_raw(path, {}, [], [], tensors=[chosen, bucket])
        assert message in refusal(path, 1, 3)
    write_raw(path, {}, [], [], tensors=[bucket])
    assert "1 tensors for 1 layers" in refusal(path, 1, 3)


def test_an_old_file_survives_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PowerInferError, match="cannot be written: No space left on device"):
        write_gpuidx(path, PLAN, MADE, [N_FF] * 4, 1)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, fingerprint="0"), "another model"),
        (lambda c: replace(c, budgets=(1 << 33, 1 << 33)), "8.00 GiB + 16.00 GiB, and now it is 8.00 GiB + 8.00 GiB"),
        (lambda c: replace(c, budgets=()), "now it is no GPU"),
        (lambda c: replace(c, n_ctx=8192), "context of 4096 tokens, and now it is 8192"),
        (lambda c: replace(c, n_cells=4096), "cache of 4224 positions, and now they are 4096"),
        (lambda c: replace(c, type_k="f32"), "keys in f16, and now it is f32"),
        (lambda c: replace(c, type_v="f32"), "values in q8_0, and now it is f32"),
        (lambda c: replace(c, scratch=6), "5 bytes of scratch, and now they are 6"),
        (lambda c: replace(c, max_layers=None), "40 layers on the GPU, and now they are any"),
        (lambda c: replace(c, shares=(1.0, 1.0)), "tensor split of 1,0.1, and now it is 1,1"),
        (lambda c: replace(c, statistics=""), "other activation statistics"),
        (lambda c: replace(c, profile=""), "other measured costs"),
    ],
)
def test_stale(change: Callable[[Conditions], Conditions], message: str) -> None:
    assert message in str(stale_reason(MADE, change(MADE)))
    assert stale_reason(MADE, MADE) is None
    assert stale_reason(MADE, replace(MADE, scratch=4)) is None


def test_a_budget_of_whatever_is_free_may_grow_a_little() -> None:
    made, grown = (replace(MADE, budgets=budgets) for budgets in ((1000,), (1040,)))
    assert stale_reason(made, grown, slack=0.05) is None
    assert stale_reason(made, grown) is not None
    assert stale_reason(made, grown, slack=0.03) is not None
    assert stale_reason(grown, made, slack=0.05) is not None  # it must not have shrunk


EXPERTS = [12, 300, 12, 300]


@pytest.fixture
def routed(tmp_path: Path) -> Path:
    path = tmp_path / "mixture.gpuidx"
    write_gpuidx(path, PLAN, MADE, EXPERTS, 1234, routed=True)
    return path


def test_experts_are_in_keys_of_ours(routed: Path) -> None:
    """So that the original does not take it for a plan of neurons."""
    assert Original(routed.read_bytes()).tensors == []
    index = read_gpuidx(routed, EXPERTS)
    assert index.conditions == MADE
    assert [layer.hot.tolist() for layer in index.plan.layers] == [layer.hot.tolist() for layer in PLAN.layers]
    assert [layer.device for layer in index.plan.layers] == [-1, 0, 1, 1]
    plan = Plan((), (LayerPlacement(MAIN_MEMORY, no_neurons()),), MAIN_MEMORY, "layers", "f")
    write_gpuidx(routed, plan, Conditions("f", (), 0, "f32", "f32"), [8], 0, routed=True)
    assert read_gpuidx(routed, [8]).plan.hot_counts == (0,)


def test_experts_of_another_model(routed: Path, path: Path) -> None:
    write_gpuidx(path, PLAN, MADE, EXPERTS, 1234)
    for file, groups, message in (
        (routed, [12, 300, 12, 301], "are of another model: its layers have other numbers of experts"),
        (routed, EXPERTS[:3], "of 4 layers, but the model has 3"),
        (path, EXPERTS[::-1], "layer 0 has 12 neurons, but the model's have 300"),
    ):
        with pytest.raises(PowerInferError, match=message):
            read_gpuidx(file, groups)


@pytest.mark.parametrize(
    ("counts", "groups", "message"),
    [
        ([2], [1], "do not fit each other"),
        ([-1], [], "do not fit each other"),
        ([1, 1], [1, 2], "do not fit each other"),
        ([1], [3], "an expert 3 in layer 0, which has only 3"),
        ([1], [-1], "ascending numbers"),
        ([2], [2, 1], "ascending numbers"),
        ([2], [1, 1], "ascending numbers"),
        ([1], [2**40], "not a plan that can be"),
        ([1], [0.5], "must be integers"),
        (["x"], [1], "must be integers"),
    ],
)
def test_hostile_experts(path: Path, counts: Any, groups: Any, message: str) -> None:
    keys = {"groups": [3], "hot_counts": counts, "hot_groups": groups}
    ours = OURS | {f"powerinfer.plan.{key}": value for key, value in keys.items() if value}
    write_raw(path, ours, [], [], tensors=[])
    assert message in refusal(path, 1, 3)
