"""How many bytes a model takes on a GPU: what weights, cache and buffers there come to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, assert_never

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.device import cache_bytes, planar_bytes
from powerinfer_cli.kernels.device.cache import SPARE
from powerinfer_cli.kernels.device.reference import CHUNK_NUMBERS
from powerinfer_cli.kernels.device.reference_attention import SCRATCH_NUMBERS
from powerinfer_cli.kernels.device.unpack import CHUNK_BYTES
from powerinfer_cli.kernels.device.whole_texts import QUERY_SCORES, queries_at_once
from powerinfer_cli.kernels.few import ONE_BY_ONE
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import (
    FFN,
    Attention,
    Everything,
    Head,
    LatentAttention,
    Layer,
    Linear,
    Predicted,
    Routed,
    SharedAttention,
    all_active,
    attentions,
    cache_owner,
    latent_attentions,
    leaves,
    predictor_of,
    recurrent_layers,
    routing_of,
    shared_attentions,
    sources,
)
from powerinfer_cli.placement import HeatRule, LayerBytes, ModelBytes, RowReading
from powerinfer_cli.runtime.context.cache_size import extent_of, reads_whole
from powerinfer_cli.runtime.context.pages import Extent
from powerinfer_cli.runtime.context.states import state_bytes
from powerinfer_cli.runtime.device.cold_stream import STREAM_BYTES, streamed_bytes
from powerinfer_cli.runtime.device.recurrent import mixing_bytes
from powerinfer_cli.runtime.device.slots import adaptable
from powerinfer_cli.runtime.device.staging import stages_for
from powerinfer_cli.runtime.device.widths import Widths, chunk_pages, flow_bytes, parts_bytes, parts_width, table_bytes
from powerinfer_cli.runtime.options import EngineOptions

__all__ = ["allocated", "buffer_bytes", "model_bytes", "scratch_bytes", "staged_groups", "staging_bytes"]

Heads: TypeAlias = Attention[Tensor, Tensor] | SharedAttention[Tensor, Tensor] | LatentAttention[Tensor, Tensor]

BLOCK = 512  # the allocator of torch rounds up to it
PLANES = 6  # tensors of a matrix, at most
DEQUANTISED = 16  # bytes of a weight while it becomes a float
UNPACKED = 10  # bytes for each of a file's, while they become planes


def model_bytes(model: Model, options: EngineOptions, n_ctx: int, scratch: int | None = None) -> ModelBytes:
    """For n_ctx tokens of the options' sequences, cache types and batches. scratch: as measured, if it was; else
    counted, for layers that are not streamed.
    """
    extent = extent_of(model.layers, options, n_ctx)
    wanted = [all_active(layer) if options.all_active else layer for layer in model.layers]
    read = sorted(sources(model.layers))
    own = [_layer(layer, options, extent) for layer in wanted]
    owners = [cache_owner(model.layers, i) for i in range(len(own))]
    layers = tuple(
        _sharing(one, own[owner], read.index(owner)) if owner in read else one
        for one, owner in zip(own, owners, strict=True)
    )
    shared = tuple(own[index] for index in read)
    found = scratch_bytes(model, options, n_ctx) if scratch is None else scratch
    n_tokens = options.most_tokens(n_ctx) + options.few_tokens(n_ctx, ONE_BY_ONE)
    joining = parts_bytes(model.layers, n_tokens)
    joining += 3 * max(one.page * chunk_pages(one.n_pages, one.page) for one in own)
    return ModelBytes(layers, _bytes(model.head), found, joining, shared)


def _sharing(one: LayerBytes, source: LayerBytes, at: int) -> LayerBytes:
    """A layer that reads what others read as well, or keeps it: wherever one of them is, so is that."""
    one = replace(one, shared_kv=source.kv, shared_page=source.page, n_pages=source.n_pages)
    return replace(one, kv=0, page=0, spare=0, reads=at)


def scratch_bytes(model: Model, options: EngineOptions, n_ctx: int, *, streams: bool = False) -> int:
    """Buffers, and what comes and goes while a batch is computed or weights are loaded: counted, for want of a GPU that
    would tell. streams: cold neurons pass through, too.
    """
    n_tokens, extent = options.most_tokens(n_ctx), extent_of(model.layers, options, n_ctx)
    n_embd, n_seen = model.config.n_embd, PAGE * extent.longest
    n_vocab = model.config.n_vocab if model.config.writes else 0
    n_ff = max(_width(layer.ffn) for layer in model.layers)
    latent = latent_attentions(model.layers)
    heads: list[Heads] = [*attentions(model.layers), *shared_attentions(model.layers), *latent]
    recurrent = list(recurrent_layers(model.layers).values())
    mixed = max((matrix.n_elements for one in recurrent for matrix in leaves(one)[0]), default=0)
    largest = max(mixed, n_embd * max(n_vocab, n_ff, *(one.n_q for one in heads)))
    streamed = 0
    if streams:
        slot = streamed_bytes(model)
        streamed = 2 * slot + max(STREAM_BYTES * UNPACKED, 2 * slot + UNPACKED * CHUNK_BYTES)
    loaded = n_embd * max(n_vocab, *(layer.ffn.neurons.n_ff for layer in model.layers), *(one.n_q for one in heads))
    weights = max(DEQUANTISED * min(CHUNK_NUMBERS, largest), UNPACKED * min(CHUNK_BYTES, max(mixed, loaded)))
    attention = max((_attention_bytes(one, n_tokens, n_seen) for one in heads), default=0)
    attention = max(attention, *(mixing_bytes(one, n_tokens) for one in recurrent), 0)
    if latent:
        weights = max(weights, *(4 * max(one.keys.n_elements, one.values.n_elements) for one in latent))
        attention += max(4 * n_tokens * 3 * one.n_q for one in latent)
    values = 4 * (
        n_tokens * (3 * n_ff + n_embd + n_vocab)
        + max(options.n_sequences, options.few_tokens(n_ctx, ONE_BY_ONE)) * n_vocab
    )
    values += n_tokens * max(_choosing(layer.ffn, n_embd) for layer in model.layers)
    return buffer_bytes(model, model.layers, options, n_ctx) + weights + attention + values + streamed


def _choosing(ffn: FFN[Tensor, Tensor], n_embd: int) -> int:
    """For each token: scores that are sorted, its chosen experts in their order; and, if all go to one expert, what
    that reads, what it makes, and both sums that it is added to.
    """
    routed = routing_of(ffn.selection)
    return 0 if routed is None else 32 * routed.n_experts + 48 * routed.router.n_chosen + 4 * 4 * n_embd


def staging_bytes(model: Model, rule: HeatRule) -> int:
    """What experts, or groups of neurons, need on their way into other places, while a model adapts."""
    count, largest = staged_groups(model, rule)
    return count * (allocated(largest) + BLOCK) + 2 * largest + UNPACKED * min(CHUNK_BYTES, largest) if count else 0


def staged_groups(model: Model, rule: HeatRule) -> tuple[int, int]:
    """How many experts, or groups of neurons, are on their way at a time, and bytes of the largest in the file."""
    ffns = [layer.ffn for layer in model.layers if adaptable(layer.ffn)]
    if not ffns:
        return 0, 0
    shares = [ffn.n_groups if routing_of(ffn.selection) else max(1, ffn.n_groups // rule.neurons) for ffn in ffns]
    matrices = [(ffn.neurons.matrices, share) for ffn, share in zip(ffns, shares, strict=True)]
    largest = max(sum(one.nbytes for one in those) // share for those, share in matrices)
    return stages_for(largest, rule, len(ffns)), largest


def buffer_bytes(model: Model, layers: Sequence[Layer[Tensor, Tensor]], options: EngineOptions, n_ctx: int) -> int:
    """What a batch and a few tokens flow through in these of a model's layers, and what they turn by."""
    extent, widths = extent_of(model.layers, options, n_ctx), Widths.of(model.config.n_embd, layers)
    many, few = options.most_tokens(n_ctx), options.few_tokens(n_ctx, ONE_BY_ONE)
    flows = flow_bytes(widths, many, extent, apart=False) + flow_bytes(widths, few, extent, apart=True)
    return flows + table_bytes(widths, extent)


def _attention_bytes(one: Heads, n_tokens: int, n_seen: int) -> int:
    """What comes and goes of attention: keys and values that are read, and what is made of them, scores, masks."""
    if reads_whole(one):
        scores = one.n_head * queries_at_once(n_tokens, one.n_head) * n_tokens
        return 4 * (QUERY_SCORES * scores + 4 * n_tokens * one.n_q)
    n_head_kv = one.n_head_source if isinstance(one, SharedAttention) else one.n_head_kv
    rows = n_tokens * (one.n_head // n_head_kv)
    width = max(one.head_dim, rows)
    length = min(n_seen, max(PAGE, SCRATCH_NUMBERS // width))
    heads = min(n_head_kv, max(1, SCRATCH_NUMBERS // (width * length)))
    return length * (16 * heads * (one.head_dim + rows) + 6 * rows) + 12 * n_tokens * parts_width(one)


def allocated(n_bytes: int) -> int:
    """What torch's allocator counts for a tensor of so many bytes."""
    return -(-n_bytes // BLOCK) * BLOCK


def _layer(layer: Layer[Tensor, Tensor], options: EngineOptions, extent: Extent) -> LayerBytes:
    attention, neurons, selection = layer.attention, layer.ffn.neurons, layer.ffn.selection
    n_groups, matrices = layer.ffn.n_groups, neurons.matrices
    exact = neurons.activation.has_exact_zeros
    first = neurons.up if neurons.gate is None else neurons.gate
    group = sum(_group(linear, n_groups) for linear in (neurons.gate, neurons.up) if linear is not None)
    asked, routed = predictor_of(selection), routing_of(selection)
    down = neurons.down if routed is not None else Linear(neurons.down.weight, None)
    group += _group(down, n_groups)
    predictor = 0 if asked is None else sum(map(_matrix, (asked.fc1, asked.fc2))) + allocated(n_groups)
    chosen = shared = 0
    if routed is not None:
        predictor = _bytes(routed) + allocated(8 * n_groups)
        chosen = routed.router.n_chosen
        shared = 0 if routed.shared is None else sum(map(_matrix, routed.shared.neurons.matrices))
    types, cells = (CacheType(options.type_k), CacheType(options.type_v)), extent.n_cells(attention.window)
    state = state_bytes([layer])

    def cache(n_cells: int) -> int:
        if reads_whole(attention):
            return 0
        return cache_bytes(attention.n_head_kv, n_cells, attention.head_dim, *types)

    return LayerBytes(
        attention=_bytes(layer)
        - _bytes(layer.ffn)
        + (0 if neurons.down.bias is None or routed is not None else _vector(neurons.down.bias))
        + len(matrices) * (PLANES + 1) * BLOCK,  # what rounding adds to neurons' matrices and biases
        predictor=predictor,
        kv=cache(cells) + allocated(extent.n_sequences * state),
        neuron=group,
        neurons=n_groups,
        first=_group(first, n_groups) if exact and routed is None else group,
        reading=_reading(layer.ffn),
        divisible=layer.ffn.divisible,
        n_pages=cells // PAGE if attention.n_head and not reads_whole(attention) else 0,
        page=cache(PAGE),
        spare=cache(SPARE),
        windowed=attention.window is not None,
        chosen=chosen,
        shared=shared,
        state=state,
    )


def _width(ffn: FFN[Tensor, Tensor]) -> int:
    """Neurons that are computed at a time: an expert comes behind another."""
    routed = routing_of(ffn.selection)
    if routed is None:
        return ffn.neurons.n_ff
    return max(ffn.neurons.n_ff // routed.n_experts, 0 if routed.shared is None else routed.shared.neurons.n_ff)


def _group(linear: Linear[Tensor, Tensor], n_groups: int) -> int:
    """Of one neuron or expert, with its biases; 0 where there are none."""
    if not n_groups:
        return 0
    biases = 0 if linear.bias is None else 4 * (linear.bias.n_elements // n_groups)
    return -(-_rows(linear.weight) // n_groups) + biases


def _reading(ffn: FFN[Tensor, Tensor]) -> RowReading:
    match ffn.selection:
        case Predicted():
            return RowReading.PREDICTED
        case Routed():
            return RowReading.CHOSEN
        case Everything():
            exact = ffn.neurons.transposed and ffn.neurons.activation.has_exact_zeros
            return RowReading.FIRST if exact else RowReading.ALL
    assert_never(ffn.selection)


def _bytes(
    block: Layer[Tensor, Tensor] | FFN[Tensor, Tensor] | Head[Tensor, Tensor] | Routed[Tensor, Tensor],
) -> int:
    """Of all leaves."""
    matrices, vectors = leaves(block)
    return sum(map(_matrix, matrices)) + sum(map(_vector, vectors))


def _rows(tensor: Tensor) -> int:
    return planar_bytes(tensor.type, tensor.n_rows, tensor.shape[-1])


def _matrix(tensor: Tensor) -> int:
    return _rows(tensor) + PLANES * BLOCK


def _vector(tensor: Tensor) -> int:
    return allocated(4 * tensor.n_elements)
