"""How many bytes a model takes on a GPU: what weights, cache and buffers there come to."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.device import cache_bytes, planar_bytes
from powerinfer_cli.kernels.device.reference import CHUNK_NUMBERS
from powerinfer_cli.kernels.device.unpack import CHUNK_BYTES
from powerinfer_cli.model import LayerWeights, Linear, ModelConfig, Norm, Weights
from powerinfer_cli.placement import LayerBytes, ModelBytes
from powerinfer_cli.runtime.device.cold_stream import STREAM_BYTES
from powerinfer_cli.runtime.device.flow import flow_bytes
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.pages import PageTable

__all__ = ["allocated", "model_bytes", "pages_of", "scratch_bytes"]

BLOCK = 512  # the allocator of torch rounds up to it
PLANES = 6  # tensors of a matrix, at most
DEQUANTISED = 16  # bytes of a weight while it becomes a float
UNPACKED = 10  # bytes for each of a file's, while they become planes


def pages_of(options: EngineOptions, n_ctx: int) -> PageTable:
    """The pages of a cache for n_ctx tokens of the options' sequences."""
    return PageTable(n_ctx, options.n_sequences, unified=options.unified)


def model_bytes(
    weights: Weights, config: ModelConfig, options: EngineOptions, n_ctx: int, scratch: int | None = None
) -> ModelBytes:
    """For n_ctx tokens of the options' sequences, cache types and batches. scratch: as measured, if it was."""
    pages = pages_of(options, n_ctx)
    predictors = config.sparse and not options.all_active
    layers = tuple(_layer(layer, config, options, pages, predictors=predictors) for layer in weights.layers)
    head = _linear(weights.output) + _norm(weights.output_norm)
    return ModelBytes(layers, head, scratch_bytes(config, options, n_ctx) if scratch is None else scratch)


def scratch_bytes(config: ModelConfig, options: EngineOptions, n_ctx: int) -> int:
    """Buffers, and what comes and goes while a batch is computed or weights are loaded: counted, for want of a GPU that
    would tell.
    """
    n_tokens, pages = max(1, min(options.n_ubatch, options.n_batch, n_ctx)), pages_of(options, n_ctx)
    s, n_seen = config.sizes, PAGE * pages.tables.shape[1]
    largest = s.n_embd * max(s.n_vocab, s.n_ff, s.n_q)
    streamed = 2 * STREAM_BYTES * (1 + UNPACKED // 2) if options.stream_from is not None else 0
    weights = max(DEQUANTISED * min(CHUNK_NUMBERS, largest), UNPACKED * min(CHUNK_BYTES, largest))
    attention = 16 * n_seen * s.n_kv + n_tokens * n_seen * (config.n_head // config.n_head_kv)
    values = 4 * (n_tokens * (3 * s.n_ff + s.n_embd + s.n_vocab) + options.n_sequences * s.n_vocab)
    flows = flow_bytes(config, n_tokens, pages) + flow_bytes(config, 1, pages)
    return flows + weights + attention + values + streamed


def allocated(n_bytes: int) -> int:
    """What torch's allocator counts for a tensor of so many bytes."""
    return -(-n_bytes // BLOCK) * BLOCK


def _layer(
    layer: LayerWeights, config: ModelConfig, options: EngineOptions, pages: PageTable, *, predictors: bool
) -> LayerBytes:
    linears = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output)
    norms = (layer.attn_norm, layer.attn_norm_2, layer.attn_q_norm, layer.attn_k_norm, layer.ffn_norm)
    n_ff = layer.ffn_up.weight.shape[0]
    down = layer.ffn_down or layer.ffn_down_t
    assert down is not None  # load_weights lets no other layer through
    matrices = [linear for linear in (layer.ffn_gate, layer.ffn_up, down) if linear]
    neuron = -(-sum(_rows(linear.weight) for linear in matrices) // n_ff)
    biases = sum(4 for linear in (layer.ffn_gate, layer.ffn_up) if linear and linear.bias)
    asked = [tensor for tensor in (layer.fc1, layer.fc2) if tensor and predictors]
    types = CacheType(options.type_k), CacheType(options.type_v)
    return LayerBytes(
        attention=sum(map(_linear, linears))
        + sum(_norm(norm) for norm in norms if norm)
        + _vector(down.bias)
        + len(matrices) * (PLANES + 1) * BLOCK,  # what rounding adds to neurons' matrices and biases
        predictor=sum(map(_matrix, asked)) + (allocated(n_ff) if asked else 0),
        kv=cache_bytes(config.n_head_kv, pages.n_cells, config.head_dim, *types),
        neuron=neuron + biases,
        neurons=n_ff,
    )


def _rows(tensor: Tensor) -> int:
    return planar_bytes(tensor.type, tensor.n_rows, tensor.shape[-1])


def _matrix(tensor: Tensor) -> int:
    return _rows(tensor) + PLANES * BLOCK


def _linear(linear: Linear) -> int:
    return _matrix(linear.weight) + _vector(linear.bias)


def _norm(norm: Norm) -> int:
    return _vector(norm.weight) + _vector(norm.bias)


def _vector(tensor: Tensor | None) -> int:
    return 0 if tensor is None else allocated(4 * tensor.n_elements)
