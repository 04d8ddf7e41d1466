"""EuroBERT: llama's names. Embedding Gemma: Gemma 3's."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.encoders.pooling import encoder_keys
from powerinfer_cli.convert.families.names import LLAMA, POST_NORMS, norms_plus_one

__all__ = ["CONVERSIONS"]


def _eurobert(config: Config) -> Names:
    return LLAMA


def _gemma(config: Config) -> Names:
    return norms_plus_one(POST_NORMS)


def _with_front(config: Config, name: str) -> str:
    return name if name.startswith("model.") else f"model.{name}"


def _eurobert_keys(config: Config) -> KeyValues:
    return encoder_keys(config) | {"rope.scaling.type": "none"}


def _gemma_keys(config: Config) -> KeyValues:
    """The window counts both sides, as config.json does. That tokens see both is the architecture's own."""
    return encoder_keys(config) | {
        "attention.causal": None,
        "attention.sliding_window": config.integer("sliding_window"),
    }


CONVERSIONS = (
    Conversion(
        "eurobert",
        ("EuroBertModel", "JinaEmbeddingsV5Model"),
        _eurobert,
        _eurobert_keys,
        renamed=_with_front,
        skipped=r"model\.lm_head\..*",
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 250000.0},
    ),
    Conversion(
        "gemma-embedding",
        ("Gemma3TextModel",),
        _gemma,
        _gemma_keys,
        renamed=_with_front,
        defaults={"rms_norm_eps": 1e-6, "head_dim": 256, "sliding_window": 512, "rope_local_base_freq": 10000.0},
    ),
)
