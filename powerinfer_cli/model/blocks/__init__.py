"""What a model is made of, as data: the one place that says what a layer is.

Blocks are generic in their leaves, matrices M and vectors V: tensors of a file, rows packed for the CPU, rows on a
device. `map` gives the same block with other leaves, visiting them in the order in which a token needs them; `leaves`
lists them. Neither torch nor Numba is known here. T tokens, D = head_dim.
"""

from powerinfer_cli.model.blocks.attention import (
    Attention,
    HeadNorms,
    LatentAttention,
    LinearMixer,
    Mixer,
    NoMixer,
    Squeeze,
    Temperature,
    alibi_exponents,
)
from powerinfer_cli.model.blocks.ffn import (
    FFN,
    LEAST_SUM,
    LOWEST_SCORE,
    NEAR,
    Everything,
    Gating,
    Neurons,
    Predicted,
    Routed,
    Router,
    Selection,
    SharedExpert,
    predictor_of,
    routing_of,
)
from powerinfer_cli.model.blocks.layers import (
    Embedding,
    Head,
    Layer,
    Parallel,
    Sequential,
    all_active,
    attentions,
    latent_attentions,
    leaves,
    with_ffn,
)
from powerinfer_cli.model.blocks.parts import (
    XIELU,
    Activation,
    Linear,
    Norm,
    NormKind,
    Norms,
)
from powerinfer_cli.model.blocks.recurrent import Convolution, Recurrent, ShortConvolution, recurrent_layers
from powerinfer_cli.model.rope import Rope, RopeStyle

__all__ = [
    "FFN",
    "LEAST_SUM",
    "LOWEST_SCORE",
    "NEAR",
    "XIELU",
    "Activation",
    "Attention",
    "Convolution",
    "Embedding",
    "Everything",
    "Gating",
    "Head",
    "HeadNorms",
    "LatentAttention",
    "Layer",
    "Linear",
    "LinearMixer",
    "Mixer",
    "Neurons",
    "NoMixer",
    "Norm",
    "NormKind",
    "Norms",
    "Parallel",
    "Predicted",
    "Recurrent",
    "Rope",
    "RopeStyle",
    "Routed",
    "Router",
    "Selection",
    "Sequential",
    "SharedExpert",
    "ShortConvolution",
    "Squeeze",
    "Temperature",
    "alibi_exponents",
    "all_active",
    "attentions",
    "latent_attentions",
    "leaves",
    "predictor_of",
    "recurrent_layers",
    "routing_of",
    "with_ffn",
]
