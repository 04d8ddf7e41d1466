"""Room for texts in a drafter's own engine, whose context may be smaller than the model's."""

from collections.abc import Callable, Mapping

from powerinfer_cli.runtime import Engine

__all__ = ["fitting"]


def fitting(engine: Engine, lengths: Mapping[int, int], forget: Callable[[int], None]) -> set[int]:
    """Which sequences can get so long (tokens), each of which is no longer than a sequence may be. Where they share the
    context and not all can, what it holds of others is forgotten, and then those that come first go on.
    """
    if not engine.options.unified:
        return set(lengths)
    held = [len(engine.tokens_of(i)) for i in range(engine.n_sequences)]
    more = {i: max(0, n - held[i]) for i, n in lengths.items()}
    left = engine.n_ctx - sum(held)
    if sum(more.values()) > left:
        for i in range(engine.n_sequences):
            if held[i] and i not in lengths:
                forget(i)
                left += held[i]
    found = set()
    for i, n in more.items():
        if n <= left:
            found.add(i)
            left -= n
    return found
