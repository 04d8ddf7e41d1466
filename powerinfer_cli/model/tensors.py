"""From a file's tensors to blocks, strictly: every tensor that an architecture names is there with its shape.

An architecture is data: a function that builds one layer by asking a `LayerReader` for its parts, and what its models
have in common. Shapes are rows first, as in NumPy. Nothing is read yet: tensors are views of the mapped file.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFError, GGUFFile, Tensor, chosen_rows, dequantize
from powerinfer_cli.model.architecture import Architecture, Bias, Ends
from powerinfer_cli.model.blocks import (
    FFN,
    Attention,
    Curve,
    Embedding,
    Everything,
    Head,
    HeadNorms,
    Layer,
    Linear,
    Neurons,
    Norm,
    NormKind,
    Norms,
    Predicted,
    Selection,
)
from powerinfer_cli.model.cuts import cut, ones
from powerinfer_cli.model.keys import MAX_CONTEXT, Keys
from powerinfer_cli.model.rope import Rope
from powerinfer_cli.model.rope_keys import RopeKeys, read_rope
from powerinfer_cli.model.sizes import Sizes

__all__ = ["LayerReader", "ModelReader"]

TensorLinear: TypeAlias = Linear[Tensor, Tensor]


class TensorReader(ABC):
    """Tensors by name, and the parts that they make."""

    def __init__(self, arch: Architecture, keys: Keys, sizes: Sizes) -> None:
        self.arch, self.keys, self.n_embd, self._norm_eps = arch, keys, sizes.n_embd, sizes.norm_eps

    @abstractmethod
    def maybe(self, name: str, *shape: int | None) -> Tensor | None:
        """As `tensor`; None where it is missing."""

    @abstractmethod
    def tensor(self, name: str, *shape: int | None) -> Tensor:
        """Raises PowerInferError: it is missing, or of another shape (None stands for any size)."""

    def bias(self, name: str, size: int | None, kind: Bias) -> Tensor | None:
        """The bias of so many numbers that belongs to a weight, `name`."""
        if kind == "none":
            return None
        return self.tensor(f"{name}.bias", size) if kind == "required" else self.maybe(f"{name}.bias", size)

    def norm(
        self, name: str, size: int | None = None, bias: Bias | None = None, kind: NormKind | None = None
    ) -> Norm[Tensor]:
        """Of n_embd numbers, or of so many; as the architecture has its norms, or of another kind."""
        size = size or self.n_embd
        weight = self.tensor(f"{name}.weight", size) if self.arch.norm_weight else ones(size)
        found = self.bias(name, size, self.arch.norm_bias if bias is None else bias)
        return Norm(kind or self.arch.norm, self._norm_eps, weight, found)

    def linear(self, name: str, rows: int | None, columns: int | None, bias: Bias = "optional") -> TensorLinear:
        return Linear(self.tensor(f"{name}.weight", rows, columns), self.bias(name, rows, bias))


class ModelReader(TensorReader):
    """A file's tensors by name, each of which is asked for once. `sizes`, `keys`: what its metadata say."""

    def __init__(self, gguf: GGUFFile, arch: Architecture, keys: Keys, sizes: Sizes) -> None:
        super().__init__(arch, keys, sizes)
        self.gguf, self.sizes = gguf, sizes
        self.taken: set[str] = set()
        self._lacking: dict[str, dict[str, bool]] = {}  # by an optional tensor's name in its layer: whose is there
        self._ropes: dict[RopeKeys, Rope] = {}

    def fail(self, problem: str) -> NoReturn:
        raise PowerInferError(f"{self.gguf.path}: {problem}")

    def tensor(self, name: str, *shape: int | None) -> Tensor:
        found = self.maybe(name, *shape)
        if found is None:
            self.fail(f"tensor {name} is missing")
        return found

    def maybe(self, name: str, *shape: int | None) -> Tensor | None:
        self.taken.add(name)
        tensor = self.gguf.tensors.get(name)
        return None if tensor is None else self._fitted(tensor, shape)

    def ends(
        self,
        *,
        embedding_scale: float = 1.0,
        embedding_norm: bool = False,
        position_offset: int | None = None,
        output_bias: Bias = "optional",
        logit_scale: float = 1.0,
        softcap: float | None = None,
        norm_name: str = "output_norm",
    ) -> Ends:
        """Token embedding, positions where they are learned (their offset in the table), last norm, and the output,
        which is the embedding where the file has none.
        """
        s = self.sizes
        tokens = self.tensor("token_embd.weight", s.n_vocab, s.n_embd)
        positions = None if position_offset is None else self.tensor("position_embd.weight", None, s.n_embd)
        norm = self.norm("token_embd_norm") if embedding_norm else None
        output = self.maybe("output.weight", s.n_vocab, s.n_embd)
        head = Linear(tokens if output is None else output, self.bias("output", s.n_vocab, output_bias))
        embedding = Embedding[Tensor, Tensor](tokens, positions, position_offset or 0, embedding_scale, norm)
        return embedding, Head(self.norm(norm_name), head, logit_scale, softcap)

    def rope(
        self,
        *,
        base_key: str = "rope.freq_base",
        base: float = 10000.0,
        dims_key: str = "rope.dimension_count",
        n_rot: int | None = None,
        scaled: bool = True,
        whole_pairs: bool = True,
        gain: float | None = None,
    ) -> Rope:
        """One for all layers that ask for the same. n_rot: where the file does not say. scaled: as its keys and factors
        have it; else positions count as they are. whole_pairs, gain: see `RopeKeys`.
        """
        asked = RopeKeys(base_key, base, dims_key, n_rot or self.sizes.head_dim, scaled, whole_pairs, gain)
        if asked not in self._ropes:
            if self.arch.rope_style is None:
                raise ValueError(f"{self.arch.name} turns nothing")
            self._ropes[asked] = read_rope(self, asked, self.arch.rope_style)
        return self._ropes[asked]

    def layers(self) -> tuple[Layer[Tensor, Tensor], ...]:
        s = self.sizes
        some = [i for i in range(s.n_layer) if s.n_head[i] or s.n_ff[i] or self.arch.alone]
        if not some:
            self.keys.fail("block_count: no layer has anything in it")
        return tuple(self.arch.layer(LayerReader(self, index)) for index in some)

    def note_optional(self, layer: int, name: str, there: bool) -> None:
        self._lacking.setdefault(name, {})[f"blk.{layer}.{name}"] = there

    def check_alike(self) -> None:
        """What a layer may hold or lack, all layers hold or all lack. Raises PowerInferError."""
        for found in self._lacking.values():
            if len(set(found.values())) > 1:
                lacking = next(name for name, there in found.items() if not there)
                self.fail(f"tensor {lacking} is missing, but other layers have theirs")

    def _fitted(self, tensor: Tensor, shape: tuple[int | None, ...]) -> Tensor:
        """As llama.cpp, whose tensors have four sizes: ones in front are there or not, by who has written the file."""
        fitted = _with_ones(tensor.shape, len(shape))
        fits = len(fitted) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, fitted, strict=True)
        )
        if not fits:
            want = " x ".join("any" if n is None else str(n) for n in shape)
            have = " x ".join(map(str, tensor.shape))
            self.fail(f"tensor {tensor.name} has shape {have}, but the metadata asks for {want}")
        try:
            dequantize(tensor.rows()[:0], tensor.type)
        except GGUFError as error:
            raise PowerInferError(f"{self.gguf.path}: tensor {tensor.name} cannot hold weights: {error}") from error
        return tensor if fitted == tensor.shape else replace(tensor, shape=fitted)


def _with_ones(shape: tuple[int, ...], n: int) -> tuple[int, ...]:
    """With n sizes, as far as ones in front can make them more or fewer."""
    while len(shape) > n and shape[0] == 1:
        shape = shape[1:]
    return (1,) * (n - len(shape)) + shape


class LayerReader(TensorReader):
    """The tensors of one layer, by their names behind `blk.N.`. guesses: it is behind the last one."""

    def __init__(self, model: ModelReader, index: int, *, guesses: bool = False) -> None:
        super().__init__(model.arch, model.keys, model.sizes)
        self.model, self.index, self.guesses, s = model, index, guesses, model.sizes
        self.n_ff, self.head_dim = s.n_ff[index], s.head_dim
        self.n_head, self.n_head_kv = s.n_head[index], s.n_head_kv[index]

    def _name(self, name: str) -> str:
        return f"blk.{self.index}.{name}"

    def __contains__(self, name: str) -> bool:
        there = self._name(name) in self.model.gguf.tensors
        self.model.note_optional(self.index, name, there)
        return there

    def tensor(self, name: str, *shape: int | None) -> Tensor:
        return self.model.tensor(self._name(name), *shape)

    def maybe(self, name: str, *shape: int | None) -> Tensor | None:
        found = self.model.maybe(self._name(name), *shape)
        self.model.note_optional(self.index, name, found is not None)
        return found

    def norms(self, before: str | None = None, after: str | None = None) -> Norms[Tensor]:
        return Norms(self.norm(before) if before else None, self.norm(after) if after else None)

    def attention(
        self,
        *,
        rope: Rope | None,
        bias: Bias = "optional",
        output_bias: Bias = "optional",
        fused: bool = False,
        norms: HeadNorms[Tensor] | None = None,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
        keys_as_values: bool = False,
        gated: bool = False,
        **more: Any,
    ) -> Attention[Tensor, Tensor]:
        """`fused`: queries, keys and values are the rows of one matrix; others may be as well. scale: of scores, where
        it is not 1 / sqrt(head_dim). keys_as_values: where there is no matrix of values, as there may be none, that of
        keys makes these as well. gated: behind each head's queries comes what gates its output. more: of
        `Attention`'s fields.
        """
        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        if fused or "attn_qkv.weight" in self:
            whole = self.linear("attn_qkv", n_q + 2 * n_kv, self.n_embd, bias)
            q, k, v = cut(whole, 0, n_q, n_q + n_kv, n_q + 2 * n_kv)
        else:
            if "attn_q.weight" not in self:
                names = (f"blk.{self.index}.attn_{one}.weight" for one in ("q", "qkv"))
                self.model.fail(f"tensor {' is missing, or '.join(names)}")
            if gated:
                q, more["gate"] = self._gated_queries(bias)
            else:
                q = self.linear("attn_q", n_q, self.n_embd, bias)
            k = self.linear("attn_k", n_kv, self.n_embd, bias)
            alone = keys_as_values and "attn_v.weight" not in self
            v = k if alone else self.linear("attn_v", n_kv, self.n_embd, bias)
        output = self.linear("attn_output", self.n_embd, n_q, output_bias)
        sizes = self.n_head, self.n_head_kv, self.head_dim
        scale = self.head_dim**-0.5 if scale is None else scale
        more |= self._sight(window, more.get("chunk"))
        return Attention(*sizes, q, k, v, output, norms, rope, scale, softcap=softcap, **more)

    def _sight(self, window: int | None, chunk: int | None) -> dict[str, Any]:
        """Which tokens are seen: fields of `Attention`."""
        if self.keys.flag("attention.causal", default=self.arch.causal):
            return {"window": window}
        if self.arch.causal and (window is not None or chunk is not None):
            self.keys.fail("attention.causal is false: not supported in layers with a window")
        return {"causal": False, "reach": None if window is None else window // 2}

    def _gated_queries(self, bias: Bias) -> tuple[TensorLinear, TensorLinear]:
        both = self.linear("attn_q", 2 * self.n_head * self.head_dim, self.n_embd, bias)
        numbers = np.arange(both.weight.shape[0], dtype=np.int32).reshape(self.n_head, 2, self.head_dim)

        def part(which: int) -> TensorLinear:
            rows = numbers[:, which].reshape(-1)
            return Linear(chosen_rows(both.weight, rows), None if both.bias is None else chosen_rows(both.bias, rows))

        return part(0), part(1)

    @property
    def has_windows(self) -> bool:
        """Of any layer."""
        return self.keys.integer("attention.sliding_window", 0, high=MAX_CONTEXT) > 0

    def window(self, *, period: int, default: int = 0, first: bool = False) -> int | None:
        """This layer's; None: it has none. Every layer has one but each `period`-th, or with `first` the first of so
        many, unless the file has a pattern. default: where the file does not say how long it is; 0: no layer has one.
        """
        return self.windows(period=period, default=default, first=first)[self.index]

    def windows(self, *, period: int, default: int = 0, first: bool = False) -> tuple[int | None, ...]:
        """Of all layers, as `window`."""
        window = self.keys.integer("attention.sliding_window", default, high=MAX_CONTEXT)
        key, n_layer = "attention.sliding_window_pattern", self.model.sizes.n_layer
        windowed = self.keys.pattern(key, n_layer, period, first=first)
        return tuple(window if window and one else None for one in windowed)

    def own_head_norms(self) -> HeadNorms[Tensor]:
        """Of each head by itself, with a weight of its own."""
        q, k = (self._own_norm(f"attn_{x}_norm", n) for x, n in (("q", self.n_head), ("k", self.n_head_kv)))
        return HeadNorms(q, k)

    def _own_norm(self, name: str, n_head: int) -> Norm[Tensor]:
        weight = self.tensor(f"{name}.weight", n_head, self.head_dim)
        flat = replace(weight, shape=(n_head * self.head_dim,))
        return Norm(self.arch.norm, self._norm_eps, flat, None)

    def bare_head_norms(self, *, after_rope: bool = False) -> HeadNorms[Tensor]:
        """Of each head by itself, without a weight."""
        norm = Norm(self.arch.norm, self._norm_eps, ones(self.head_dim), None)
        return HeadNorms(norm, norm, after_rope=after_rope)

    def head_norms(self, *, after_rope: bool = False) -> HeadNorms[Tensor]:
        """Of each head by itself, with one weight for all."""
        q, k = (self.norm(f"attn_{x}_norm", self.head_dim, "none") for x in "qk")
        return HeadNorms(q, k, after_rope=after_rope)

    def ffn(
        self,
        *,
        gated: bool = True,
        bias: Bias = "optional",
        relu_on_up: bool = False,
        fused: bool = False,
        curve: Curve | None = None,
    ) -> FFN[Tensor, Tensor]:
        """A dense FFN, or a sparse one: its down matrix transposed, so that a neuron is a row, and its predictor, which
        neurons with exact zeros can do without, and single layers of a PowerInfer file.

        fused: `ffn_up` has the gate's rows before its own.
        """
        n_ff, n_embd, gate = self.n_ff, self.n_embd, None
        if fused:
            gate, up = cut(self.linear("ffn_up", 2 * n_ff, n_embd, bias), 0, n_ff, 2 * n_ff)
        else:
            gate = self.linear("ffn_gate", n_ff, n_embd, bias) if gated else None
            up = self.linear("ffn_up", n_ff, n_embd, bias)
        predicted, activation = self.model.sizes.predicted[self.index], self.model.sizes.activation
        may_turn = self.model.gguf.sparse or activation.has_exact_zeros
        turned = predicted or (may_turn and self._name("ffn_down_t.weight") in self.model.gguf.tensors)
        down = self._down_t(bias) if turned else self.linear("ffn_down", n_embd, n_ff, bias)
        selection = self._predictor() if predicted else Everything()
        curve = curve or self.model.sizes.curve
        return FFN(Neurons(n_ff, gate, up, down, turned, activation, relu_on_up, curve), selection)

    def _down_t(self, bias: Bias) -> TensorLinear:
        """The original's converter renames a bias along with its matrix; other writers keep llama.cpp's name."""
        weight = self.tensor("ffn_down_t.weight", self.n_ff, self.n_embd)
        if bias == "none":
            return Linear(weight, None)
        names = [self._name(f"{name}.bias") for name in ("ffn_down", "ffn_down_t")]
        plain, turned = (self.model.maybe(name, self.n_embd) for name in names)
        if plain is not None and turned is not None:
            self.model.fail(f"tensors {turned.name} and {plain.name} exclude another")
        found = plain if turned is None else turned
        self.model.note_optional(self.index, "ffn_down.bias", found is not None)
        return Linear(weight, found)

    def _predictor(self) -> Selection[Tensor, Tensor]:
        fc1, fc2 = self.tensor("fc1.weight", None, self.n_embd), self.tensor("fc2.weight", self.n_ff, None)
        if not fc1.shape[0] == fc2.shape[1] > 0:
            ranks = f"{fc1.shape[0]} and {fc2.shape[1]}"
            self.model.fail(f"tensors {fc1.name} and {fc2.name} do not fit: ranks {ranks}")
        return Predicted(fc1, fc2)
