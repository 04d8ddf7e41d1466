"""Vectors of texts."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.serving.http.parts import Later, each, json_list

_FEW = 1 << 13  # numbers that are written in a millisecond or two

__all__ = ["finished", "native_embeddings", "normalised", "openai_embeddings"]

Vectors = npt.NDArray[np.float32]


def finished(
    rows: npt.NDArray[np.floating[Any]], pooling: str, normalisation: int, dimensions: int | None = None
) -> Vectors:
    """What the engine's thread has pooled, [1, n_embd], normalised; with "none" all rows, as they are. dimensions: so
    many are kept of each, before that.
    """
    rows = rows[:, :dimensions]
    if pooling == "none":
        return rows.astype(np.float32, copy=False)
    return normalised(rows[0].astype(np.float64), normalisation)[None].astype(np.float32)


def normalised(vector: npt.NDArray[np.float64], kind: int) -> npt.NDArray[np.float64]:
    """By llama.cpp's `embd_normalize`: -1 not, 0 by the largest into 16 bits, 2 euclidean, other p by their p-norm."""
    if kind == -1:
        return vector
    if kind == 0:
        length = np.abs(vector).max() / 32760.0
    elif kind == 2:
        length = np.sqrt((vector * vector).sum())
    else:
        # Powers of what is at most 1 cannot overflow.
        largest = np.abs(vector).max() or 1.0
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            length = largest * np.power(np.power(np.abs(vector) / largest, kind).sum(), 1.0 / kind)
    return vector / length if np.isfinite(length) and length > 0 else np.zeros_like(vector)


def native_embeddings(vectors: Sequence[Vectors]) -> list[dict[str, Any]]:
    """llama-server's own form: of each text a list of vectors."""
    return each(lambda one: {"index": one[0], "embedding": _listed(one[1])}, [*enumerate(vectors)])


def _listed(rows: Vectors) -> Any:
    """Of many tokens, a few at a time."""
    if rows.size <= _FEW:
        return rows.tolist()
    return Later(lambda: json_list((row.tolist() for row in rows), max(1, _FEW // rows.shape[1])))


def openai_embeddings(vectors: Sequence[Vectors], n_tokens: int, model: str, *, as_base64: bool) -> dict[str, Any]:
    """OpenAI's form: of each text one vector, as numbers or as little-endian float32 in base64."""
    return {
        "object": "list",
        "model": model,
        "data": each(lambda one: _one(one[0], one[1][0], as_base64), [*enumerate(vectors)]),
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


def _one(index: int, vector: Vectors, as_base64: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"object": "embedding", "index": index}
    if as_base64:
        encoded = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        return {**body, "embedding": encoded, "encoding_format": "base64"}
    return {**body, "embedding": vector.tolist()}
