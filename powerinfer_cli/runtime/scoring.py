"""Scores of texts from their pooled vectors: a classification head, as small as to be computed by itself."""

from math import erf
from typing import Any, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Linear, Norm, Scorer, ScorerActivation

__all__ = ["TextScorer", "scorer_of"]

Floats: TypeAlias = npt.NDArray[np.float64]


class TextScorer:
    """pooling: how a text's vectors become the one that is scored."""

    def __init__(self, scorer: Scorer[Tensor, Tensor]) -> None:
        self._scorer: Scorer[Floats, Floats] = scorer.map(_floats, _floats)
        self.pooling = scorer.pooling

    def scores(self, vector: npt.NDArray[np.floating[Any]]) -> Floats:
        """Of a pooled vector [n_embd], one a label: of a reranker the first says how well a document fits."""
        s, x = self._scorer, vector.astype(np.float64)
        if s.dense is not None:
            x = _activated(s.activation, _product(s.dense, x))
            x = x if s.norm is None else _normed(s.norm, x)
        x = x if s.output is None else _product(s.output, x)
        if not s.softmax:
            return x
        shares = np.exp(x - x.max())
        return np.asarray(shares / shares.sum())


def scorer_of(scorer: Scorer[Tensor, Tensor] | None) -> TextScorer:
    """Raises PowerInferError: the model has none."""
    if scorer is None:
        raise PowerInferError(
            "the model has no classification head, so that it cannot rank texts: use a reranker, as bge-reranker is"
        )
    return TextScorer(scorer)


def _floats(tensor: Tensor) -> Floats:
    return tensor.to_float32().astype(np.float64)


def _product(linear: Linear[Floats, Floats], x: Floats) -> Floats:
    y: Floats = linear.weight @ x
    return y if linear.bias is None else y + linear.bias


def _activated(kind: ScorerActivation, x: Floats) -> Floats:
    match kind:
        case ScorerActivation.TANH:
            bent: Floats = np.tanh(x)
            return bent
        case ScorerActivation.GELU:
            return np.array([0.5 * one * (1 + erf(one / 2**0.5)) for one in x])
    assert_never(kind)


def _normed(norm: Norm[Floats], x: Floats) -> Floats:
    y: Floats = (x - x.mean()) / np.sqrt(x.var() + norm.eps) * norm.weight
    return y if norm.bias is None else y + norm.bias
