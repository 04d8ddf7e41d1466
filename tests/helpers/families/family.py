"""A family of architectures as a test sees it: a tiny torch model, the file that it becomes, its logits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tests.helpers.checkpoints import converted
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB, randomise, reference_logits

WINDOW = 16
PROMPT = [int(i) for i in np.random.default_rng(5).integers(0, N_VOCAB, 80)]

SIZES = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

# Three queries a key head, and no multiple of 16 anywhere.
ODD = SIZES | {
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


def rope(base: float, **more: Any) -> dict[str, Any]:
    """transformers' rope_parameters; `more` may name another type than the default."""
    return {"rope_type": "default", "rope_theta": base, **more}


@dataclass(frozen=True)
class Family:
    """arch: the GGUF's. build: the torch model, whose weights are drawn afterwards. convert: to a file, with what only
    tests ask for.

    norm_mean, embedding: of norms' weights, 0 where the model adds 1 to them; the size of embeddings' weights, such
    that a layer's share counts beside them. authority: whose torch code `build` makes.
    peer_differs: why llama.cpp's logits are others, where they are. peer_layers: where it tells the form by their
    number, one that it knows; `build` takes num_hidden_layers then.
    """

    arch: str
    build: Callable[..., Any]
    convert: Callable[[Any], ModelFile] = converted
    norm_mean: float = 1.0
    embedding: float = 0.2
    authority: str = "transformers"
    peer_differs: str = ""
    peer_layers: int = 0


@dataclass(frozen=True)
class TinyFamily:
    """A family's torch model with weights, and its file."""

    name: str
    torch_model: Any
    file: ModelFile

    @cached_property
    def reference(self) -> np.ndarray:
        """The torch model's logits [len(PROMPT), N_VOCAB]: row t follows token t."""
        return reference_logits(self.torch_model, PROMPT)


def tiny(name: str, family: Family, **changes: Any) -> TinyFamily:
    """The family's model and its file; its random weights follow from its name. changes: to its configuration."""
    torch.manual_seed(sum(name.encode()))
    model = family.build(**changes).float().eval()
    randomise(model, family.norm_mean, family.embedding)
    return TinyFamily(name, model, family.convert(model))
