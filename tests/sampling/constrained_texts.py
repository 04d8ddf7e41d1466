"""Vocabularies and models without a mind, for what grammars allow."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import powerinfer_cli
from powerinfer_cli.sampling import SamplerOptions, TokenBreakers, build_sampler
from powerinfer_cli.sampling.grammars.constrained import sample
from powerinfer_cli.sampling.grammars.grammar import Grammars, NewConstraint
from powerinfer_cli.text import Tokenizer
from tests.text.vocabularies import byte_level

END = 256  # of byte_grammars


@cache
def byte_grammars() -> Grammars:
    """A token for each byte, so that texts are fed as they are; a token of no bytes, and one that ends a text."""
    return Grammars(
        [*(bytes([byte]) for byte in range(256)), b"</s>", b"", b"<tool>"], frozenset([END]), {258: b"<tool>"}
    )


def fits(new: NewConstraint, text: str | bytes | Sequence[int]) -> bool:
    """Whether the whole text may be written, and end there. For byte_grammars()."""
    state = new()
    for token in text.encode() if isinstance(text, str) else text:
        if not state.allows(token):
            assert not state.allowed()[token]
            return False
        assert state.allowed()[token]
        state.accept(token)
    assert state.allows(END) == state.allowed()[END]
    return state.allows(END)


@cache
def bundled() -> Tokenizer:
    return Tokenizer.from_gguf(Path(powerinfer_cli.__file__).parent / "bundled" / "storyteller.powerinfer.gguf")


@cache
def bpe() -> Tokenizer:
    return Tokenizer.from_metadata(byte_level("llama-bpe"))


Flow = Callable[[np.random.Generator, int], np.ndarray]


def chance(rng: np.random.Generator, n_vocab: int) -> np.ndarray:
    return (rng.standard_normal(n_vocab) * 3).astype(np.float32)


def written(
    tokenizer: Tokenizer, new: NewConstraint, options: SamplerOptions, *, limit: int = 400, flow: Flow = chance
) -> bytes | None:
    """What a model of random logits writes; None if it is not done within `limit` tokens."""
    sampler = build_sampler(
        options,
        n_vocab=tokenizer.vocab_size,
        n_ctx_train=64,
        eog_ids=tokenizer.eog_ids,
        breakers=lambda texts: TokenBreakers.of(texts, tokenizer),
    )
    rng, state, text = np.random.default_rng(options.seed), new(), b""
    for _ in range(limit):
        if state.finished:
            return text
        token = sample(sampler, flow(rng, tokenizer.vocab_size), state)
        sampler.accept(token)
        state.accept(token)
        if token in tokenizer.eog_ids:
            return text
        assert not tokenizer.is_control(token)
        assert tokenizer.piece(token)
        text += tokenizer.piece(token)
    return None
