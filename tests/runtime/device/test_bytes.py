"""What budget arithmetic counts, against the tensors that are really there."""

from pathlib import Path

import pytest
import torch

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.few import ONE_BY_ONE
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.model.blocks import leaves, recurrent_layers
from powerinfer_cli.placement import LayerPlacement, RowReading, all_neurons
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.context.cache_size import extent_of
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.device import scratch
from powerinfer_cli.runtime.device.bytes import allocated, model_bytes, scratch_bytes
from powerinfer_cli.runtime.device.scratch import measure_scratch
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.device.weights import Uploader
from powerinfer_cli.runtime.device.widths import Widths, flow_bytes, table_bytes
from powerinfer_cli.runtime.stats import SparsityStats
from tests.helpers.families import tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.tiny_models import tiny_model


def tensors_of(part: object, seen: set[int]) -> int:
    """Bytes of all distinct storages that an object's tensors have, rounded as the allocator rounds."""
    if isinstance(part, torch.Tensor):
        storage = part.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return allocated(storage.nbytes())
    if isinstance(part, dict):
        return sum(tensors_of(one, seen) for one in part.values())
    if isinstance(part, tuple | list):
        return sum(tensors_of(one, seen) for one in part)
    if hasattr(part, "__dict__") and type(part).__module__.startswith("powerinfer_cli"):
        return sum(tensors_of(one, seen) for one in vars(part).values())
    return 0


def side_of(
    model: Model, options: EngineOptions, n_ctx: int, placed: dict[int, LayerPlacement], n_tokens: int
) -> DeviceSide:
    """What is rehearsed on the CPU: some layers, and the head."""
    pages, device = PageTable(extent_of(model.layers, options, n_ctx)), torch.device("cpu")
    parts = Parts(model, options, SparsityStats(), None, pages, LoadEvents())
    return DeviceSide(parts, device, placed, head=True, n_tokens=n_tokens, uploader=Uploader(device, 1, LoadEvents()))


SHARED = {"alone": {}, "divided": {"n_sequences": 3}, "unified": {"n_sequences": 3, "unified": True}}


@pytest.mark.parametrize(
    ("case", "kind", "sharing"),
    [
        ("llama-relu", GGMLType.Q8_0, "alone"),
        ("llama-relu", GGMLType.Q4_0, "divided"),
        ("opt", GGMLType.Q8_0, "unified"),
        ("falcon-7b-relu", GGMLType.Q4_0, "alone"),
        ("falcon-7b-relu", GGMLType.Q8_0, "unified"),
    ],
)
@pytest.mark.parametrize("n_ctx", [128, 500])
def test_counted_is_what_is_there(tmp_path: Path, case: str, kind: GGMLType, sharing: str, n_ctx: int) -> None:
    tiny = tiny_model(case)
    gguf = tiny.file.sparsified(random_predictors(tiny)).stored_as(kind).open(tmp_path)
    check_counts(load_model(gguf), EngineOptions(n_ubatch=16, **SHARED[sharing]), n_ctx)  # type: ignore[arg-type]  # any option


@pytest.mark.parametrize("sharing", SHARED)
def test_windows_are_counted_as_they_are(tmp_path: Path, sharing: str) -> None:
    """Six layers of seven keep a window of 16 and a batch."""
    model, found = load_model(tiny_family("gemma3").file.open(tmp_path)), []
    for full in (False, True):
        options = EngineOptions(n_ubatch=16, swa_full=full, **SHARED[sharing])  # type: ignore[arg-type]  # any option
        check_counts(model, options, 3000)
        found.append([layer.kv for layer in model_bytes(model, options, 3000).layers])
    kept, whole = found
    assert [b / a for a, b in zip(kept, whole, strict=True)] == pytest.approx(
        [1.0 if i == 5 else {"alone": 24 / 2, "divided": 8 / 2, "unified": 26 / 6}[sharing] for i in range(7)]
    )


@pytest.mark.parametrize("name", ["mixtral", "qwen2moe", "gpt-oss", "deepseek3", "smallthinker", "qwen35moe"])
def test_experts_and_latents_are_counted(tmp_path: Path, name: str) -> None:
    model = load_model(tiny_family(name).file.open(tmp_path))
    check_counts(model, EngineOptions(n_ubatch=16), 300)
    sizes = model_bytes(model, EngineOptions(), 300).layers
    assert [one.neurons for one in sizes] == [layer.ffn.n_groups for layer in model.layers]
    for one, layer in zip(sizes, model.layers, strict=True):
        assert one.divisible == (layer.ffn.n_groups < layer.ffn.neurons.n_ff)


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("name", ["lfm2", "qwen35"])
def test_states_are_counted(tmp_path: Path, name: str, sharing: str) -> None:
    """Of each sequence, however long the context."""
    model, options = load_model(tiny_family(name).file.open(tmp_path)), EngineOptions(n_ubatch=16, **SHARED[sharing])  # type: ignore[arg-type]  # any option
    check_counts(model, options, 300)
    states = {i: 4 * one.state_size for i, one in recurrent_layers(model.layers).items()}
    for i, layer in enumerate(model_bytes(model, options, 9000).layers):
        assert layer.state == states.get(i, 0)
        if i in states:
            assert layer.kv == allocated(options.n_sequences * layer.state)
            assert layer.seen(0.1) == layer.seen(1) == 2 * layer.state


def test_what_layers_share_is_counted_once(tmp_path: Path) -> None:
    """Of each GPU, as it may have readers alone; the table of layers' inputs stays in the file."""
    model, options = load_model(tiny_family("gemma4-small").file.open(tmp_path)), EngineOptions(n_ubatch=16)
    check_counts(model, options, 300)
    sizes, reader = model_bytes(model, options, 300), model.layers[5].ffn
    read = side_of(model, options, 300, {5: LayerPlacement(0, all_neurons(reader.n_groups))}, 16)
    assert [one.kv > 0 for one in sizes.layers] == [True, True, False, False, False, False]
    assert sizes.shared[1].kv == read.kept[3].nbytes == sizes.layers[5].shared_kv > 0
    assert sizes.layers[3].shared_kv == sizes.layers[5].shared_kv
    scratch._pass(read, reader, 5, 16)
    assert model.embedding.inputs is not None
    assert (
        model.embedding.inputs.tokens.nbytes
        > sizes.total - sizes.on_each - sum(one.fixed + one.ffn for one in sizes.layers) - sizes.head
    )


def check_counts(model: Model, options: EngineOptions, n_ctx: int) -> None:
    placed = {i: LayerPlacement(0, all_neurons(layer.ffn.n_groups)) for i, layer in enumerate(model.layers)}
    side = side_of(model, options, n_ctx, placed, 16)
    extent = side.pages.extent
    sizes = model_bytes(model, options, n_ctx)
    there = tensors_of([side.layers, side.kept, side.output], set())
    counted = sizes.total - sizes.scratch
    assert there <= counted
    assert side.kept_bytes() == there
    matrices = sum(len(leaves(layer)[0]) for layer in model.layers)
    assert counted - there < matrices * (5 << 10)  # what rounding may add
    flows = tensors_of([side.few, side.many, side.tables], set())
    widths = Widths.of(model.config.n_embd, model.layers)
    tables = table_bytes(widths, extent)
    few = options.few_tokens(n_ctx, ONE_BY_ONE)
    counted = flow_bytes(widths, 16, extent, apart=False) + flow_bytes(widths, few, extent, apart=True) + tables
    assert flows <= counted < flows + (64 << 10)
    assert sizes.scratch > flows


def test_without_a_gpu_scratch_is_counted(tmp_path: Path) -> None:
    gguf = tiny_model("llama").file.open(tmp_path)
    model, options = load_model(gguf), EngineOptions()
    assert measure_scratch(model, options, 64, "cpu", streams=False) == scratch_bytes(model, options, 64) > 0


@pytest.mark.parametrize("sharing", SHARED)
def test_scratch_is_measured_with_full_sequences(tmp_path: Path, sharing: str) -> None:
    """By a full batch and a token, at the end of what sequences may have; here it only has to run."""
    tiny = tiny_model("llama-relu")
    gguf = tiny.file.sparsified(random_predictors(tiny)).open(tmp_path)
    model, options = load_model(gguf), EngineOptions(n_ubatch=300, **SHARED[sharing])  # type: ignore[arg-type]  # any option
    placed = {1: LayerPlacement(0, all_neurons(model.config.n_ff[1])[:50])}
    side = side_of(model, options, 400, placed, 300)
    scratch._pass(side, model.layers[1].ffn, 1, 300)
    segments = side.many.places.cached(None).segments
    assert [own.end - own.begin for own in segments] == ([133, 133, 34] if sharing == "divided" else [300])
    assert {own.limit for own in segments} == {side.pages.n_ctx_sequence}


@pytest.mark.parametrize("family", ["qwen3moe", "gpt-oss", "smallthinker"])
def test_scratch_of_experts_is_measured_with_those_that_a_token_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """To which the whole batch goes, whatever its router says; a layer's experts may be more than a GPU holds."""
    model, options = load_model(tiny_family(family).file.open(tmp_path)), EngineOptions(n_ubatch=24)
    ffn = model.layers[1].ffn
    hot = scratch._measured(ffn)
    assert 0 < hot.size < ffn.n_groups
    side = side_of(model, options, 48, {1: LayerPlacement(0, hot)}, 24)
    seen: list[int] = []
    one_expert = side.many.ops.add_expert

    def counted(x: torch.Tensor, tokens: torch.Tensor, *rest: torch.Tensor, **more: bool) -> None:
        seen.append(len(tokens))
        one_expert(x, tokens, *rest, **more)

    monkeypatch.setattr(side.many.ops, "add_expert", counted)
    scratch._pass(side, ffn, 1, 24)
    assert seen == [24] * hot.size


def test_layers_of_other_sizes_and_without_attention_are_counted(tmp_path: Path) -> None:
    model, options = load_model(tiny_family("deci").file.open(tmp_path)), EngineOptions(n_ubatch=16)
    check_counts(model, options, 300)
    whole, alone, linear, narrow, _ = (layer.kv for layer in model_bytes(model, options, 300).layers)
    assert alone == linear < narrow < whole


def test_pages_are_counted(tmp_path: Path) -> None:
    """Of a cache that is not all there; what is measured with it has only to run."""
    model, options = load_model(tiny_model("qwen3").file.open(tmp_path)), EngineOptions(n_ubatch=300, n_ctx=400)
    placed = {1: LayerPlacement(0, all_neurons(model.config.n_ff[1]), pages=1)}
    side = side_of(model, options, 400, placed, 300)
    sizes = model_bytes(model, options, 400)
    assert side.caches[1].nbytes == sizes.layers[1].cache(1) < sizes.layers[1].kv
    joined = [parts for flow in (side.few, side.many) for parts in flow.attention._parts.values()]
    passing = 3 * sizes.layers[1].page  # of pages from main memory, and what they become
    assert sum(one.own.nbytes + one.other.nbytes for one in joined) == sizes.joining - passing > 0
    assert sizes.with_pages(1).scratch == sizes.scratch + sizes.joining
    scratch._pass(side, model.layers[1].ffn, 1, 300)


def test_scratch_is_measured_with_the_largest_layer_of_each_kind(tmp_path: Path) -> None:
    """Gemma 3's sixth layer alone sees everything; of Llama-Nemotron's the fourth is the widest, the second has no
    attention, the third a matrix instead.
    """
    found = {name: load_model(tiny_family(name).file.open(tmp_path)).layers for name in ("gemma3", "deci", "qwen35")}
    assert scratch.largest_of_kinds(found["gemma3"]) == [0, 5]
    assert scratch.largest_of_kinds(found["deci"]) == [3, 1, 2]
    assert scratch.largest_of_kinds(found["qwen35"]) == [0, 2]


@pytest.mark.parametrize(
    ("case", "predicted", "reading", "first"),
    [
        ("llama-relu", True, RowReading.PREDICTED, 1 / 3),
        ("llama-relu", False, RowReading.ALL, 1 / 3),
        ("opt", True, RowReading.PREDICTED, 1 / 2),
        ("llama", False, RowReading.ALL, 1.0),
    ],
)
def test_which_rows_are_read(tmp_path: Path, case: str, predicted: bool, reading: RowReading, first: float) -> None:
    tiny = tiny_model(case)
    file = tiny.file.sparsified(random_predictors(tiny)) if predicted else tiny.file
    model = load_model(file.open(tmp_path))
    for layer in model_bytes(model, EngineOptions(), 64).layers:
        assert (layer.reading, layer.divisible) == (reading, predicted)
        assert layer.first / layer.neuron == pytest.approx(first, rel=0.05)
    if predicted:  # exact zeros remain
        asked = model_bytes(model, EngineOptions(all_active=True), 64).layers[0]
        assert (asked.reading, asked.divisible) == (RowReading.FIRST, True)
