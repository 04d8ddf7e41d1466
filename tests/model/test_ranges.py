"""Layer ranges: how a model is divided, and that its parts in a row compute what the whole does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.model.blocks import Border, leaves, sources
from powerinfer_cli.model.ranges import LayerRange, check_division, divide, part_of, read_ranges, shown_ranges
from tests.helpers.families import tiny_family


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(open_gguf(tiny_family("llama").file.write(tmp_path_factory.mktemp("llama") / "tiny.gguf")))


def test_ranges_follow_each_other(model: Model) -> None:
    n = len(model.layers)
    for ranks in range(1, n + 1):
        ranges = divide(model, ranks)
        assert [one.begin for one in ranges] == [0, *(one.end for one in ranges[:-1])]
        assert ranges[-1].end == n
        assert all(one.begin < one.end for one in ranges)


def test_more_ranks_than_layers(model: Model) -> None:
    n = len(model.layers)
    with pytest.raises(PowerInferError, match=f"{n + 1} ranks are more than the model has layers, which are {n}"):
        divide(model, n + 1)


def test_a_large_head_counts_with_the_last_rank(model: Model) -> None:
    tensor = model.head.weight
    layers = model.layers * 4  # as many bytes as the head has, several times
    wide = replace(tensor, shape=(tensor.shape[0] * 100, *tensor.shape[1:]), data=np.tile(tensor.data, 100))
    large = replace(model, layers=layers, head=replace(model.head, output=replace(model.head.output, weight=wide)))
    small = replace(model, layers=layers)
    assert divide(large, 2)[0].end > divide(small, 2)[0].end


def test_each_tensor_is_in_one_part(model: Model) -> None:
    parts = [part_of(model, one) for one in divide(model, 3)]
    names = [tensor.name for part in parts for layer in part.layers for kind in leaves(layer) for tensor in kind]
    assert names == [tensor.name for layer in model.layers for kind in leaves(layer) for tensor in kind]
    assert [isinstance(part.embedding, Border) for part in parts] == [False, True, True]
    assert [part.head.output is None for part in parts] == [True, True, False]
    assert [part.config.writes for part in parts] == [False, False, True]
    assert sum(part.config.n_layer for part in parts) == model.config.n_layer


def test_a_range_for_people() -> None:
    assert str(LayerRange(3, 7)) == "layers 3 to 6"


def test_ranges_by_hand(model: Model) -> None:
    ranges = divide(model, 2)
    assert read_ranges(shown_ranges(ranges)) == ranges
    assert read_ranges("0-0, 1-9") == (LayerRange(0, 1), LayerRange(1, 10))
    check_division(model, ranges)
    with pytest.raises(PowerInferError, match="--layers ends with layer 9, but the model's last is"):
        check_division(model, read_ranges("0-0,1-9"))


@pytest.mark.parametrize(
    "words", ["", "0", "0-1,", "1-2", "0-1,1-2", "0-1,3-4", "0-1,2-1", "0-1,2--3", "0-999999", "0-²"]
)
def test_ranges_that_are_none(words: str) -> None:
    with pytest.raises(UsageError, match="--layers: "):
        read_ranges(words)


def test_layers_that_read_others_keys_are_with_these(tmp_path: Path) -> None:
    small = load_model(open_gguf(tiny_family("gemma4-small").file.write(tmp_path / "tiny.gguf")))
    first = min(sources(small.layers))
    assert 0 < first < len(small.layers) - 1
    for n in range(2, first + 2):
        ranges = divide(small, n)
        assert ranges[-1].begin <= first
        last = part_of(small, ranges[-1])
        assert sources(last.layers) == {one - ranges[-1].begin for one in sources(small.layers)}
        assert last.embedding.inputs is small.embedding.inputs
    with pytest.raises(PowerInferError, match=f"read the keys of layer {first}: start {first + 1} at most"):
        divide(small, first + 2)
    with pytest.raises(PowerInferError, match=f"but layers from {first} on belong together"):
        check_division(small, [LayerRange(0, first + 1), LayerRange(first + 1, len(small.layers))])
