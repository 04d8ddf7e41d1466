"""Sampling under a constraint."""

import numpy as np
from numpy.typing import NDArray

from powerinfer_cli.sampling.chain import Sampler
from powerinfer_cli.sampling.grammars.grammar import Constraint, GrammarError

__all__ = ["sample"]


def sample(sampler: Sampler, logits: NDArray[np.float32], constraint: Constraint | None) -> int:
    """The next token for `logits` [n_vocab], one that `constraint` allows. Accepts it nowhere.

    Whoever appends the token to the text tells both: `sampler.accept(token)` and `constraint.accept(token)`, and looks
    at `constraint.finished` before it asks for another one. Raises GrammarError where nothing is allowed, and what
    Sampler.sample raises.

    As llama.cpp does it: a token drawn as if there were no constraint is kept if it is allowed, which costs next to
    nothing; otherwise the rest is ruled out, before the chain's samplers see it, and drawn again.
    """
    if constraint is None:
        return sampler.sample(logits)
    token = sampler.sample(logits)
    if constraint.allows(token):
        return token
    allowed = constraint.allowed()
    if not allowed.any():
        raise GrammarError("the text is complete, and the vocabulary has no token that ends it")
    return sampler.sample(logits, allowed)
