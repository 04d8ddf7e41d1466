"""Documents in the order of their scores."""

from collections.abc import Sequence
from typing import Any

__all__ = ["ranked"]


def ranked(
    scores: Sequence[float],
    top_n: int | None,
    *,
    texts: Sequence[str] | None,
    plain: bool,
    model: str,
    n_tokens: int,
) -> Any:
    """The top_n best, or all; of equal ones the first comes first. texts: each is told with its score. plain: a list
    alone, as Text Embeddings Inference has it.
    """
    label = "score" if plain else "relevance_score"
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_n]
    results = [{"index": i, label: scores[i], **({} if texts is None else {"text": texts[i]})} for i in order]
    if plain:
        return results
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"model": model, "object": "list", "usage": usage, "results": results}
