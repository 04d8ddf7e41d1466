"""Per-layer embeddings, and layers that read others' keys and values: what they are read as, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.model.blocks import Attention, SharedAttention, input_gate_of, leaves, sources
from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile

TABLE = "per_layer_token_embd.weight"


def tiny() -> ModelFile:
    return tiny_family("gemma4-small").file


def loaded(folder: Path, tensors: dict[str, np.ndarray] | None = None, **keys: Any) -> Model:
    """With other tensors and values of keys."""
    file = tiny()
    changed = {f"gemma4.{key.replace('__', '.')}": value for key, value in keys.items()}
    given = replace(file, metadata=file.metadata | changed, tensors=file.tensors | (tensors or {}))
    return load_model(given.open(folder))


def test_last_layers_have_queries_alone(tmp_path: Path) -> None:
    """Each reads the last before them that has its window."""
    layers = loaded(tmp_path).layers
    assert [type(layer.attention) for layer in layers] == [Attention] * 4 + [SharedAttention] * 2
    assert [layer.attention.window for layer in layers] == [16, None] * 3
    assert [layer.attention.source for layer in layers[4:]] == [2, 3]  # type: ignore[union-attr]  # as the types are
    assert sources(layers) == {2, 3}
    assert [layer.attention.n_head_kv for layer in layers] == [2, 2, 2, 2, 0, 0]
    names = [one.name for one in leaves(layers[5].attention)[0]]
    assert names == ["blk.5.attn_q.weight", "blk.5.attn_output.weight"]


def test_every_layer_has_inputs(tmp_path: Path) -> None:
    """The stream is divided by what layers before have multiplied it by, but not what gates make of it."""
    model = loaded(tmp_path)
    inputs, gates = model.embedding.inputs, [input_gate_of(layer) for layer in model.layers]
    assert inputs is not None
    assert (inputs.n, inputs.tokens.shape, inputs.projection.weight.shape) == (120, (96, 120), (120, 64))
    scales = np.cumprod([1, 0.5, 1.5, 0.8, 0.7, 1.2])
    assert [gate.gain for gate in gates if gate] == pytest.approx(scales, rel=1e-6)
    assert [gate.first for gate in gates if gate] == [0, 20, 40, 60, 80, 100]


def test_keys_that_nobody_reads_may_be_there(tmp_path: Path) -> None:
    """Converters write them for all layers."""
    unused = {f"blk.5.attn_{x}.weight": np.zeros((80, 64), np.float32) for x in "kv"}
    plain = loaded(tmp_path)
    assert leaves(loaded(tmp_path, unused).layers[5])[0][0].name == leaves(plain.layers[5])[0][0].name


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"attention__shared_kv_layers": 6}, "attention.shared_kv_layers is 6 of 6 layers: none is left whose keys"),
        ({"attention__shared_kv_layers": 9}, "attention.shared_kv_layers is 9 of 6 layers"),
        ({"attention__shared_kv_layers": -1}, "attention.shared_kv_layers is -1, outside 0 to"),
        ({"attention__shared_kv_layers": 5}, "no layer before 1 is one without a window, whose keys layer 1 reads"),
        ({"attention__shared_kv_layers": 1}, "tensor blk.4.attn_k_norm.weight is missing"),
        ({"attention__head_count": [4, 4, 4, 4, 3, 4], "attention__head_count_kv": [2, 2, 2, 2, 1, 1]}, "of layer 4"),
        (
            {"embedding_length_per_layer_input": 21},
            f"tensor {TABLE} has shape 96 x 120, but gemma4.embedding_length_per",
        ),
        ({"embedding_length_per_layer_input": 0}, "unexpected tensor"),
        ({"embedding_length_per_layer_input": "20"}, "embedding_length_per_layer_input is not an integer"),
    ],
)
def test_keys_that_cannot_be(tmp_path: Path, keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        loaded(tmp_path, **keys)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
