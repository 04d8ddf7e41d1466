"""Each tensor gets the type that llama-quantize gives it (recorded by scripts/recording/record_mixes.py)."""

import json
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.convert.mixes import MIXES, VALUES, Mix, Shape, fitting_type, mixed_type, part_of
from powerinfer_cli.gguf_io import BLOCK, GGMLType

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/mixes.json").read_text())
SHAPES = {
    "dense": {"n_gqa": 4, "n_experts": 0},
    "experts": {"n_gqa": 2, "n_experts": 8},
}


@pytest.mark.parametrize("model", RECORDED)
@pytest.mark.parametrize("name", [name for name, mix in MIXES.items() if BLOCK[mix.base][0] > 1])
def test_types(model: str, name: str) -> None:
    tensors, mixes = RECORDED[model]["tensors"], RECORDED[model]["mixes"]
    values = [one for one in sorted(tensors, key=_layer) if part_of(one) in VALUES]
    for important in (False, True):
        recorded = mixes.get(f"{name}{'+' if important else ''}")
        if recorded is None:
            assert not important  # what llama-quantize does not write without an importance matrix
            continue
        wanted = {number: kind for kind, numbers in recorded.items() for number in numbers}
        shape = Shape("llama", 16, tied="output.weight" not in tensors, important=important, **SHAPES[model])
        for number, (tensor, dims) in enumerate(tensors.items()):
            before = values.index(tensor) if tensor in values else 0
            kind = fitting_type(mixed_type(MIXES[name], tensor, dims, shape, before, len(values)), dims[-1])
            assert kind.name == wanted[number], tensor


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def test_rows_that_no_block_divides() -> None:
    assert fitting_type(GGMLType.Q4_K, 256) is GGMLType.Q4_K
    assert fitting_type(GGMLType.Q4_K, 96) is GGMLType.Q5_0
    assert fitting_type(GGMLType.IQ2_XS, 96) is GGMLType.IQ4_NL
    assert fitting_type(GGMLType.Q4_K, 40) is GGMLType.F16


def test_falcon_and_models_of_70_billion() -> None:
    """As `llama-quant.cpp` has it; no such model is small enough to be recorded."""
    falcon = Shape("falcon", 32, 71, 0, tied=False, important=False)
    large = Shape("llama", 80, 8, 0, tied=False, important=False)

    def found(mix: str, name: str, shape: Shape) -> str:
        return mixed_type(Mix(mix, 0, MIXES[mix].base), name, (256, 256), shape, 9, shape.n_layer).name

    downs = [found("Q4_K_M", f"blk.{layer}.ffn_down.weight", falcon) for layer in (0, 3, 5, 6)]
    assert downs == ["Q6_K", "Q5_K", "Q4_K", "Q5_K"]
    assert found("Q4_K_M", "output.weight", falcon) == "Q8_0"
    assert found("Q4_K_S", "blk.20.attn_v.weight", large) == "Q5_K"
    assert found("Q3_K_S", "blk.20.attn_v.weight", large) == "Q5_K"
