"""Answers: what the engine's thread told, in the words of each protocol."""

from .probs import completion_logprobs, n_chances, probabilities, token_text, told
from .timings import SYSTEM_FINGERPRINT, completion_id, timings_body, usage_body

__all__ = [
    "SYSTEM_FINGERPRINT",
    "completion_id",
    "completion_logprobs",
    "n_chances",
    "probabilities",
    "timings_body",
    "token_text",
    "told",
    "usage_body",
]
