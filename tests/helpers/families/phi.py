"""Phi: a parallel block with LayerNorm (2); fused matrices and long rope (3, 4)."""

from typing import Any

from tests.helpers.families.family import SIZES, WINDOW, Family, rope

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0],
    "partial_rotary_factor": 0.75,
}


def _phi2() -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    own = {"num_key_value_heads": 4, "intermediate_size": 256}  # the converter knows no other
    return PhiForCausalLM(PhiConfig(**(SIZES | own), rope_parameters=rope(10000.0, partial_rotary_factor=0.5)))


def _phi3(**more: Any) -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**({"rope_parameters": rope(1000.0)} | SIZES | more)))


def _phi3_long(n_original: int) -> Any:
    """Phi 4 mini's: a part of a head is rotated, the output is the embedding. Factors depend on the context's size."""
    sizes = {"max_position_embeddings": 4 * n_original, "original_max_position_embeddings": n_original}
    return _phi3(**sizes, tie_word_embeddings=True, rope_parameters=rope(1000.0, **LONG))


FAMILIES = {
    "phi2": Family("phi2", _phi2),
    "phi3": Family("phi3", _phi3),
    "phi3-long": Family("phi3", lambda: _phi3_long(32)),
    "phi3-short": Family("phi3", lambda: _phi3_long(512)),
    "phi3-window": Family(
        "phi3",
        lambda: _phi3(sliding_window=WINDOW),
        peer_differs="it reads the window and attends to everything, as its own warning says",
    ),
}
