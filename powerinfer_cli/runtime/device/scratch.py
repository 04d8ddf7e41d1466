"""What a GPU needs besides weights and KV cache: buffers, and what comes and goes. Measured there, for one layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import Layer, predictor_of, routing_of
from powerinfer_cli.placement import LayerPlacement, Neurons, all_neurons
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.cache_size import extent_of
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.device.bytes import buffer_bytes, scratch_bytes
from powerinfer_cli.runtime.device.link import Replay
from powerinfer_cli.runtime.device.memory import lift_budget
from powerinfer_cli.runtime.device.rooms import NOTHING
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.device.weights import FileFFN, Uploader
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["largest_of_kinds", "measure_scratch"]

STREAMED = 256  # neurons
LONG = 1 << 15  # positions


def measure_scratch(model: Model, options: EngineOptions, n_ctx: int, name: str, *, streams: bool) -> int:
    """Bytes on each GPU: a full batch and a few tokens at the context's end pass through a layer, the largest of each
    kind, and the head; buffers are those of all layers.

    name: torch's for one of the devices; where that is no GPU, the buffers are counted instead. streams: whether cold
    neurons pass through, too.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return scratch_bytes(model, options, n_ctx, streams=streams)
    return max(
        _with_layer(index, model, options, n_ctx, device, streams=streams)
        + buffer_bytes(model, model.layers, options, n_ctx)
        - buffer_bytes(model, model.layers[index : index + 1], options, n_ctx)
        for index in largest_of_kinds(model.layers)
    )


def largest_of_kinds(layers: Sequence[Layer[Any, Any]]) -> list[int]:
    """Of each kind of layers the one with most heads and neurons. Kinds differ in what is done: in how neurons lie, and
    whether they are predicted or experts; in what mixes tokens, and whether it has a window.
    """
    kinds: dict[tuple[bool | type, ...], list[int]] = {}
    for index, layer in enumerate(layers):
        neurons, a = layer.ffn.neurons, layer.attention
        predicted = predictor_of(layer.ffn.selection) is not None
        routed = routing_of(layer.ffn.selection) is not None
        kinds.setdefault((neurons.transposed, predicted, routed, type(a), a.window is None), []).append(index)
    return [
        max(kind, key=lambda i: (layers[i].ffn.neurons.n_ff, layers[i].attention.n_head)) for kind in kinds.values()
    ]


def _with_layer(
    index: int, model: Model, options: EngineOptions, n_ctx: int, device: torch.device, *, streams: bool
) -> int:
    n_tokens = options.most_tokens(n_ctx)
    pages = PageTable(extent_of(model.layers, options, n_ctx))
    parts = Parts(model, options, SparsityStats(), None, pages, LoadEvents())
    hot = _measured(model.layers[index].ffn)
    lift_budget(device)
    with torch.cuda.device(device):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        uploader = Uploader(device, 1, LoadEvents())
        # Of a long cache a page will do: what comes and goes is the same, and all of it might not fit.
        long = pages.extent.n_cells(model.layers[index].attention.window) > LONG
        placed = {index: LayerPlacement(0, hot, pages=1 if long else None)}
        side = DeviceSide(parts, device, placed, head=True, n_tokens=n_tokens, uploader=uploader, streams=streams)
        _pass(side, model.layers[index].ffn, index, n_tokens)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_reserved() - before
        kept = side.kept_bytes()
        del side
        torch.cuda.empty_cache()
    return peak - kept


def _measured(ffn: FileFFN) -> Neurons:
    """What of a layer is there while it is measured: of experts, of which a GPU may not hold all, as many as a token
    needs.
    """
    routed = routing_of(ffn.selection)
    if routed is not None:
        return all_neurons(routed.router.n_chosen)
    every = all_neurons(ffn.neurons.n_ff)
    return every[: -min(STREAMED, ffn.neurons.n_ff // 2)] if ffn.neurons.transposed else every


def _pass(side: DeviceSide, ffn: FileFFN, index: int, n_tokens: int) -> None:
    """All that a GPU is ever asked to do, where it takes most: by sequences that are full."""
    layer, cache, n_ctx = side.layers[index], side.caches[index], side.pages.n_ctx_sequence
    assert side.output is not None
    counts = [min(n_ctx, n_tokens - done) for done in range(0, n_tokens, n_ctx)]
    for sequence in range(len(counts)):
        side.pages.extend(sequence, n_ctx)
    flow = side.begin(side.many, Batch.of([(i, [0] * n, n_ctx - n) for i, n in enumerate(counts)]))
    flow.attend(layer, cache, side.tables, NOTHING, n_tokens)
    flow.predict(layer, n_tokens)
    routed = routing_of(layer.block.ffn.selection)
    if routed is not None:  # every token to the experts that are here: no batch takes more
        flow.ffn.chosen(routed).experts[:n_tokens].copy_(torch.arange(routed.router.n_chosen))
    flow.ffn.run(layer, n_tokens)
    if side.stream is not None and layer.slots is not None:
        every = np.zeros((n_tokens, 1), np.int64)  # all tokens to one expert, which is as if it were cold
        side.stream.run_experts(ffn, every, all_neurons(1), layer, flow, n_tokens)
    elif side.stream is not None:
        side.stream.run(ffn.neurons, all_neurons(layer.n_hot + layer.n_cold)[layer.n_hot :], layer, flow, n_tokens)
    flow.add_inputs(layer, n_tokens)
    flow.settle(flow.adds(layer), n_tokens)
    if not side.config.causal:
        return
    logits = torch.empty(n_tokens, side.config.n_vocab, device=side.device)
    flow.head(side.output, flow.x[:n_tokens], logits)
    del logits
    for n in sorted({1, side.n_few}):
        flow = side.begin(side.few, Batch.of([(0, [0] * n, n_ctx - n)]))
        steps = [
            partial(flow.attend, layer, cache, side.tables, NOTHING, n),
            partial(flow.predict, layer, n),
            partial(flow.ffn.run, layer, n),
            partial(flow.add_inputs, layer, n),
            partial(flow.settle, flow.adds(layer), n),
        ]
        Replay(side.recorder, steps)()
        side.products_of(flow, range(n))
    side.shift(0, n_ctx, 0, max(1, n_ctx // 2))
