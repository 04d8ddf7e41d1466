"""Route traces that nobody recorded: experts by a power law, whose order another topic has in another way."""

import numpy as np

from powerinfer_cli.placement import RouteTrace


def drawn_routes(
    tokens: int,
    *,
    n_experts: int,
    n_chosen: int,
    layers: int = 1,
    skew: float = 1.0,
    topics: int = 1,
    stay: int = 200,
    seed: int = 0,
) -> RouteTrace:
    """Each token's experts are drawn without replacement, rank ** -skew each, by the topic's own ranks in each layer.
    stay: tokens that a topic lasts; then comes another, the next in turn. The same seed gives the same trace.
    """
    rng = np.random.default_rng(seed)
    ranks = np.array([[rng.permutation(n_experts) for _ in range(topics)] for _ in range(layers)])
    topic = np.arange(tokens) // stay % topics
    chosen = []
    for layer in range(layers):
        lots = rng.gumbel(size=(tokens, n_experts)) - skew * np.log1p(ranks[layer, topic])
        found = np.argpartition(-lots, n_chosen - 1, axis=1)[:, :n_chosen]
        chosen.append(np.sort(found, axis=1).astype(np.uint8 if n_experts <= 256 else np.uint16))
    return RouteTrace(tuple(range(layers)), (n_experts,) * layers, tuple(chosen))
