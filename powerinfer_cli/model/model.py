"""Model: what a file holds, as blocks over its tensors. Nothing is read yet: tensors are views of the mapped file."""

import math
import re
from dataclasses import dataclass, replace

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, Tensor
from powerinfer_cli.model.blocks import Embedding, Head, Layer, Scorer, Source, attentions, recurrent_layers, routing_of
from powerinfer_cli.model.config import ModelConfig, pooling_of, read_sizes, sparse_threshold_of
from powerinfer_cli.model.key_table import check_keys, key_notes
from powerinfer_cli.model.keys import MAX_CONTEXT, Keys
from powerinfer_cli.model.parts.scorers import read_scorer
from powerinfer_cli.model.registry import architecture_of
from powerinfer_cli.model.rope import RopeScaling
from powerinfer_cli.model.sizes import Sizes
from powerinfer_cli.model.tensors import ModelReader
from powerinfer_cli.model.unset import without_unset

__all__ = ["Model", "read_model"]

# Rotary tables that old converters wrote; every engine computes them instead.
IGNORED = re.compile(r"blk\.\d+\.(attn_rot_embd|attn\.rotary_emb\.inv_freq)(\.weight)?|rope\.freqs")


LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Model:
    """Embedding, layers and head over a file's tensors. scorer: what ranks texts, if there is one. nbytes: of all these
    in the file. notes: what its keys ask for in vain, one line each.
    """

    config: ModelConfig
    embedding: Source[Tensor, Tensor]
    layers: tuple[Layer[Tensor, Tensor], ...]
    head: Head[Tensor, Tensor]
    nbytes: int = 0
    notes: tuple[str, ...] = ()
    scorer: Scorer[Tensor, Tensor] | None = None

    @property
    def has_experts(self) -> bool:
        """In any layer."""
        return _has_experts(self.layers)

    @property
    def n_experts(self) -> dict[int, int]:
        """Of the layers that have any, by their number."""
        routed = ((i, routing_of(layer.ffn.selection)) for i, layer in enumerate(self.layers))
        return {i: one.n_experts for i, one in routed if one is not None}

    @property
    def n_chosen(self) -> dict[int, int]:
        """Experts of a token, of the same layers."""
        routed = ((i, routing_of(layer.ffn.selection)) for i, layer in enumerate(self.layers))
        return {i: one.router.n_chosen for i, one in routed if one is not None}

    @property
    def n_groups(self) -> tuple[int, ...]:
        """What of each layer's FFN is placed by itself: neurons, or experts."""
        return tuple(layer.ffn.n_groups for layer in self.layers)


def read_model(gguf: GGUFFile) -> Model:
    """A file's sizes and tensors.

    Raises:
        PowerInferError: an unknown architecture; a key that is missing, or asks for what is not computed; a tensor
            that is missing, too many or of another shape. The message names it.
    """
    gguf = without_unset(gguf)
    arch = architecture_of(gguf)
    keys = Keys(gguf, arch.name)
    sizes = read_sizes(gguf, keys, arch)
    reader = ModelReader(gguf, arch, keys, sizes)
    embedding, head = arch.ends(reader)
    layers = reader.layers()
    causal = all(attention.causal for attention in attentions(layers))
    if not causal and recurrent_layers(layers):
        keys.fail("attention.causal is false: not supported beside recurrent layers")
    head = head if causal else replace(head, output=None)
    scorer = read_scorer(reader)
    same = {
        "attention.scale": sizes.head_dim**-0.5,
        "embedding_length_out": float(sizes.n_embd),
        "rope.scaling.yarn_ext_factor": float(keys.text("rope.scaling.type", "") == RopeScaling.YARN),
    }
    check_keys(gguf, arch.name, keys.asked, same, arch.neutral, experts=_has_experts(layers))
    reader.check_alike()
    _check_windows(keys, layers)
    kind = "PowerInfer " if gguf.sparse else "dense "
    for name in gguf.tensors:
        if name not in reader.taken and not IGNORED.fullmatch(name) and not _guesses(name, sizes):
            raise PowerInferError(f"{gguf.path}: unexpected tensor {name} in a {kind}{arch.name} model")
    config = ModelConfig(
        architecture=arch,
        name=gguf.get("general.name", str, gguf.path.stem),
        sparse=any(sizes.predicted),
        sparse_threshold=sparse_threshold_of(gguf),
        n_layer=len(layers),
        n_embd=sizes.n_embd,
        n_ff=tuple(layer.ffn.neurons.n_ff for layer in layers),
        n_vocab=sizes.n_vocab,
        n_ctx_train=min(_positions(gguf, embedding, sizes.n_ctx_train), _exact_without_window(keys)),
        activation=sizes.activation,
        learned_positions=embedding.positions is not None,
        causal=causal,
        writes=head.output is not None,
        pooling=pooling_of(gguf, arch.name),
    )
    nbytes = sum(tensor.nbytes for name, tensor in gguf.tensors.items() if name in reader.taken)
    return Model(config, embedding, layers, head, nbytes, tuple(key_notes(gguf, arch.name)), scorer)


def _guesses(name: str, sizes: Sizes) -> bool:
    """Whether a tensor belongs to a layer behind the last."""
    found = LAYER.match(name)
    return found is not None and sizes.n_layer <= int(found[1]) < sizes.n_layer + sizes.n_guessing


def _has_experts(layers: tuple[Layer[Tensor, Tensor], ...]) -> bool:
    return any(routing_of(layer.ffn.selection) is not None for layer in layers)


def _positions(gguf: GGUFFile, embedding: Embedding[Tensor, Tensor], n_ctx_train: int) -> int:
    """How many positions the model knows."""
    if embedding.positions is None:
        return n_ctx_train
    rows = embedding.positions.shape[0]
    if rows <= embedding.offset:
        raise PowerInferError(f"{gguf.path}: tensor position_embd.weight has no positions")
    return min(n_ctx_train, rows - embedding.offset)


def _exact_without_window(keys: Keys) -> int:
    """Where an architecture knows no window, attention sees everything: the same up to the window's length."""
    key = "attention.sliding_window"
    return MAX_CONTEXT if key in keys.asked else keys.integer(key, 0, high=MAX_CONTEXT) or MAX_CONTEXT


def _check_windows(keys: Keys, layers: tuple[Layer[Tensor, Tensor], ...]) -> None:
    """What a file says of layers with a window, and the architecture does not ask, is true. Raises PowerInferError."""
    windowed = [layer.attention.window is not None for layer in layers]
    pattern = "attention.sliding_window_pattern"
    unasked = any(windowed) and pattern not in keys.asked and pattern in keys
    if unasked and list(keys.pattern(pattern, len(layers), 0)) != windowed:
        keys.fail(f"{pattern} is not supported in {keys.architecture} models: every layer has a window")
    for attention in (layer.attention for layer in layers if layer.attention.window is not None):
        _same(keys, "attention.key_length_swa", attention.head_dim)
        _same(keys, "attention.value_length_swa", attention.head_dim)
        if attention.rope is not None:
            _same(keys, "rope.dimension_count_swa", attention.rope.n_rot)
            _same(keys, "rope.freq_base_swa", attention.rope.base)


def _same(keys: Keys, key: str, value: float) -> None:
    found = keys.number(key, value)
    if not math.isclose(found, value, rel_tol=1e-6):
        keys.fail(f"{key} is {found:g}: not supported in {keys.architecture} models, whose layers have {value:g}")
