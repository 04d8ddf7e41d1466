"""Candidates written as probabilities, as llama.cpp's own sampler tests write them."""

from __future__ import annotations

import numpy as np

from powerinfer_cli.sampling import Sampler, SamplerOptions, build_sampler
from powerinfer_cli.sampling.candidates import Candidates, Floats, from_logits, softmax

INF = float("inf")


def logits_of(*probs: float) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probs, np.float32))


def of(*probs: float) -> Candidates:
    """Candidate i has probability probs[i]."""
    return from_logits(logits_of(*probs))


def probs_by_id(candidates: Candidates) -> dict[int, float]:
    return dict(zip(candidates.ids.tolist(), softmax(candidates).tolist(), strict=True))


def off(**changes: object) -> SamplerOptions:
    """Options under which every sampler leaves the logits alone, but for `changes`."""
    neutral: dict[str, object] = {"seed": 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}
    return SamplerOptions(**{**neutral, **changes})  # type: ignore[arg-type]


def sampler(n_vocab: int, **changes: object) -> Sampler:
    return build_sampler(off(**changes), n_vocab=n_vocab, n_ctx_train=8)
