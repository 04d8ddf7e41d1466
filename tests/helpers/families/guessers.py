"""Files with a layer that guesses tokens behind the last: a copy of one of the others, and what joins it with these."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers.families import tiny_family
from tests.helpers.families.family import TinyFamily
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB

__all__ = ["GUESSERS", "Guesser", "tiny_guesser"]

# The layer that is copied, one that attends; whether the file has embedding, norm and head of the layer's own.
GUESSERS = {
    "glm4moe": (3, True),
    "deepseek3": (2, True),
    "bailingmoe2": (1, False),
    "qwen35": (2, False),
    "qwen35moe": (2, True),
    "qwen3next": (2, False),
}


@dataclass(frozen=True)
class Guesser:
    """A family's torch model, the tensors `nextn.*` by their names without that, and a file with all of them."""

    tiny: TinyFamily
    layer: int
    own: dict[str, np.ndarray]
    file: ModelFile

    def logits(self, ids: list[int]) -> np.ndarray:
        """By the definition, with torch's layers: row t is behind ids[t + 1]; [len(ids) - 1, N_VOCAB]."""
        model, own = self.tiny.torch_model, {name: torch.from_numpy(one) for name, one in self.own.items()}
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[:, :-1]
            embedded = own.get("embed_tokens", model.model.embed_tokens.weight)[torch.tensor([ids[1:]])]
            eps = model.config.rms_norm_eps
            both = _normed(embedded, own["enorm"], eps), _normed(hidden, own["hnorm"], eps)
            x = torch.cat(both, -1) @ own["eh_proj"].T
            n = x.shape[1]
            positions = torch.arange(n)[None]
            mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
            turned = model.model.rotary_emb(x, positions)
            x = model.model.layers[self.layer](
                x, attention_mask=mask, position_ids=positions, position_embeddings=turned
            )
            x = x[0] if isinstance(x, tuple) else x
            norm = own.get("shared_head_norm")
            x = model.model.norm(x) if norm is None else _normed(x, norm, eps)
            found: np.ndarray = (x @ own.get("shared_head_head", model.lm_head.weight).T)[0].numpy()
        return found


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def tiny_guesser(name: str) -> Guesser:
    tiny, (layer, has_ends) = tiny_family(name), GUESSERS[name]
    file, random = tiny.file, np.random.default_rng(3)
    n, last = tiny.torch_model.config.hidden_size, file.n_layer

    def drawn(*shape: int, size: float, mean: float = 0.0) -> np.ndarray:
        return (mean + size * random.standard_normal(shape)).astype(np.float32)

    own = {"enorm": drawn(n, size=0.1, mean=1.0), "hnorm": drawn(n, size=0.1, mean=1.0)}
    own["eh_proj"] = drawn(n, 2 * n, size=(2 * n) ** -0.5)
    if has_ends:
        own["embed_tokens"], own["shared_head_head"] = (drawn(N_VOCAB, n, size=0.2) for _ in range(2))
        own["shared_head_norm"] = drawn(n, size=0.1, mean=1.0)
    prefix = f"blk.{layer}."
    copied = {
        f"blk.{last}.{key.removeprefix(prefix)}": data for key, data in file.tensors.items() if key.startswith(prefix)
    }
    joining = {f"blk.{last}.nextn.{key}.weight": data for key, data in own.items()}
    more: dict[str, Any] = {"block_count": last + 1, "nextn_predict_layers": 1}
    key = f"{file.arch}.attention.recurrent_layers"
    if key in file.metadata:
        more["attention__recurrent_layers"] = [*map(bool, file.metadata[key]), False]
    return Guesser(tiny, layer, own, file.with_tensors(copied | joining).with_metadata(**more))
