"""Layers without attention, with a matrix in its place, and of nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.model.blocks import Attention, LinearMixer, NoMixer, leaves
from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile


def tiny() -> ModelFile:
    return tiny_family("deci").file


def loaded(folder: Path, **keys: Any) -> Model:
    """With other values of keys."""
    file = tiny()
    changed = {f"deci.{key.replace('__', '.')}": value for key, value in keys.items()}
    return load_model(replace(file, metadata=file.metadata | changed).open(folder))


def test_a_layer_may_have_less_than_attention(tmp_path: Path) -> None:
    """The fifth of six has nothing at all, and is no layer."""
    model = loaded(tmp_path)
    kinds = [type(layer.attention) for layer in model.layers]
    assert kinds == [Attention, NoMixer, LinearMixer, Attention, Attention]
    assert model.config.n_layer == 5
    assert model.config.n_ff == (256, 256, 256, 512, 256)
    matrices, vectors = leaves(model.layers[1])
    assert [one.name for one in matrices + vectors] == [
        *(f"blk.1.ffn_{name}.weight" for name in ("gate", "up", "down", "norm")),
    ]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (
            dict.fromkeys(("attention__head_count", "attention__head_count_kv", "feed_forward_length"), [0] * 6),
            "deci.block_count: no layer has anything in it",
        ),
        ({"attention__head_count_kv": [2, 1, 0, 1, 0, 2]}, "attention.head_count_kv is 1, outside 0 to 0"),
        ({"attention__head_count": [4, 4, 4, 4, 0, 4]}, "tensor blk.1.attn_norm.weight is missing"),
        ({"attention__head_count_kv": [2, 0, 2, 1, 0, 2]}, "tensor blk.2.attn_q.weight is missing"),
        ({"feed_forward_length": [0, 112, 112, 80, 0, 112]}, "feed_forward_length is 0 for layer 0, which"),
        ({"attention__head_count": [0, 0, 4, 4, 0, 4], "attention__head_count_kv": [0, 0, 0, 1, 0, 2]}, "blk.0.attn_"),
    ],
)
def test_keys_and_tensors_that_contradict_each_other(tmp_path: Path, keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        loaded(tmp_path, **keys)
    assert complaint in str(caught.value)
