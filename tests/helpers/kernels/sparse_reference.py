"""A transformers model whose FFN neurons a predictor switches off: what a PowerInfer model must compute."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers.families.family import TinyFamily
from tests.helpers.tiny_models import TinyModel

Predictor = tuple[np.ndarray, np.ndarray]  # fc1 [rank, n_embd], fc2 [n_ff, rank]
Mask = Callable[[int, Tensor], Tensor]  # (layer, predictor input [T, n_embd]) -> [T, n_ff]

_PARTS = {  # the list of layers, and in a layer: attention, up projection, down projection
    **dict.fromkeys(
        ("llama", "bamboo", "qwen2", "qwen3"), ("model.layers", "self_attn", "mlp.up_proj", "mlp.down_proj")
    ),
    "falcon": ("transformer.h", "self_attention", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": ("model.decoder.layers", "self_attn", "fc1", "fc2"),
}
SOURCES = ("input", "attended", "normed")


def random_predictors(tiny: TinyModel | TinyFamily, ranks: tuple[int, ...] = (7, 13)) -> list[Predictor]:
    """One a layer, of the given ranks, whose logits are of order 1 and of either sign."""
    rng = np.random.default_rng(5)
    n_ff, n_embd = tiny.file.tensors["blk.0.ffn_up.weight"].shape

    def normal(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    return [(normal(rank, n_embd), normal(n_ff, rank)) for rank in ranks]


def predictor_mask(predictors: list[Predictor], threshold: float) -> Mask:
    def mask(layer: int, x: Tensor) -> Tensor:
        fc1, fc2 = map(torch.from_numpy, predictors[layer])
        return (x @ fc1.T).clamp(min=0) @ fc2.T >= threshold

    return mask


@torch.no_grad()
def masked_logits(tiny: TinyModel, ids: list[int], mask: Mask, source: str) -> np.ndarray:
    """Logits [len(ids), n_vocab] when `mask` looks at one of SOURCES: a layer's input, the residual after attention,
    or the normed input of the FFN."""
    return _run(tiny, ids, mask, source)[0]


@torch.no_grad()
def what_passes(tiny: TinyModel, ids: list[int], source: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer one of SOURCES [len(ids), n_embd], and what meets the down projection [len(ids), n_ff]."""
    n_ff = len(tiny.file.tensors["blk.0.ffn_up.weight"])
    hooks = _run(tiny, ids, lambda _layer, x: torch.ones(len(x), n_ff), source)[1]
    return [(layer.seen[source].numpy(), layer.seen["value"].numpy()) for layer in hooks]


def _run(tiny: TinyModel, ids: list[int], mask: Mask, source: str) -> tuple[np.ndarray, list["_LayerHooks"]]:
    layers_path, *paths = _PARTS[tiny.file.arch]
    handles, all_hooks = [], []
    for index, layer in enumerate(attrgetter(layers_path)(tiny.torch_model)):
        attention, up, down = (attrgetter(path)(layer) for path in paths)
        hooks = _LayerHooks(index, mask, source)
        all_hooks.append(hooks)
        handles += [
            layer.register_forward_pre_hook(hooks.keep_input, with_kwargs=True),
            attention.register_forward_hook(hooks.keep_attended),
            up.register_forward_pre_hook(hooks.keep_normed),
            down.register_forward_pre_hook(hooks.switch_off),
        ]
    try:
        logits: np.ndarray = tiny.torch_model(torch.tensor([ids])).logits[0].numpy()
    finally:
        for handle in handles:
            handle.remove()
    return logits, all_hooks


class _LayerHooks:
    """Keeps what passes through one layer, and masks the neurons on their way into the down projection."""

    def __init__(self, layer: int, mask: Mask, source: str) -> None:
        self.layer, self.mask, self.source = layer, mask, source
        self.seen: dict[str, Tensor] = {}

    def keep_input(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        self.seen["input"] = x.flatten(0, 1)

    def keep_attended(self, _module: Any, _args: Any, output: Any) -> None:
        self.seen["attended"] = self.seen["input"] + output[0].flatten(0, 1)

    def keep_normed(self, _module: Any, args: tuple[Any, ...]) -> None:
        self.seen["normed"] = args[0].reshape(self.seen["input"].shape)

    def switch_off(self, _module: Any, args: tuple[Any, ...]) -> tuple[Tensor]:
        (value,) = args
        self.seen["value"] = value.flatten(0, -2).clone()
        return (value * self.mask(self.layer, self.seen[self.source]).reshape(value.shape),)
