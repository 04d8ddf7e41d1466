"""A transformers model whose FFN neurons a predictor switches off: what a PowerInfer model must compute."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers.tiny_models import TinyModel

Predictor = tuple[np.ndarray, np.ndarray]  # fc1 [rank, n_embd], fc2 [n_ff, rank]
Mask = Callable[[int, Tensor], Tensor]  # (layer, predictor input [T, n_embd]) -> [T, n_ff]

_PARTS = {  # the list of layers, and in a layer: attention, up projection, down projection
    "llama": ("model.layers", "self_attn", "mlp.up_proj", "mlp.down_proj"),
    "bamboo": ("model.layers", "self_attn", "mlp.up_proj", "mlp.down_proj"),
    "falcon": ("transformer.h", "self_attention", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": ("model.decoder.layers", "self_attn", "fc1", "fc2"),
}
SOURCES = ("input", "attended", "normed")


def random_predictors(tiny: TinyModel, ranks: tuple[int, ...] = (7, 13)) -> list[Predictor]:
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
    layers_path, *paths = _PARTS[tiny.file.arch]
    handles = []
    for index, layer in enumerate(attrgetter(layers_path)(tiny.torch_model)):
        attention, up, down = (attrgetter(path)(layer) for path in paths)
        hooks = _LayerHooks(index, mask, source)
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
    return logits


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
        return (value * self.mask(self.layer, self.seen[self.source]).reshape(value.shape),)
