#!/usr/bin/env python3
"""Compare powerinfer_cli.sampling with llama.cpp's own samplers over random options, logits and histories.

Needs llama-cpp-python (0.3.36, say) and a vocabulary-only GGUF for DRY's sequence breakers, such as
llama.cpp's models/ggml-vocab-llama-bpe.gguf:

    PYTHONPATH=. python scripts/checks/check_sampling.py VOCAB.gguf [--trials 2000] [--seed 1]

Each trial builds the same chain twice, samples several tokens with the same seed, and compares every candidate's
probability and every chosen token. Left out, because llama.cpp has no answer there: tail-free (removed), typical
sampling and mirostat 1 over candidates that are ruled out (log 0), and mirostat 1 on nearly flat logits (its k
passes int32).
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp as peer
import numpy as np

from powerinfer_cli.sampling import DEFAULT_SAMPLERS, Sampler, SamplerOptions, TokenBreakers, build_sampler

CONTEXT = 128  # what -1 stands for in a look-back
TOKENS_PER_TRIAL = 6
SMALL = 300  # in larger vocabularies float32 rounding decides between neighbours in nearly flat distributions
# llama.cpp sums probabilities in float32, one by one: over a whole vocabulary that moves one candidate over a border.
TOLERANCE, TOLERANCE_WHOLE = 1e-4, 2e-3


class Vocabulary:
    """A vocabulary-only model, through llama.cpp."""

    def __init__(self, path: Path) -> None:
        params = peer.llama_model_default_params()
        params.vocab_only = True
        self._model = peer.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            sys.exit(f"error: {path}: llama.cpp cannot load it")
        self.handle = peer.llama_model_get_vocab(self._model)
        self._pieces = [self._detokenize(token) for token in range(peer.llama_vocab_n_tokens(self.handle))]

    def pieces(self) -> list[bytes]:
        return self._pieces

    def encode(self, text: bytes) -> list[int]:
        buffer = (peer.llama_token * 1024)()
        n = peer.llama_tokenize(self.handle, text, len(text), buffer, 1024, False, False)
        return list(buffer[:n])

    def _detokenize(self, token: int) -> bytes:
        tokens, buffer = (peer.llama_token * 1)(token), ctypes.create_string_buffer(1024)
        n = peer.llama_detokenize(self.handle, tokens, 1, buffer, 1024, False, True)
        return buffer.raw[: max(n, 0)]


def random_options(rng: random.Random, n_vocab: int) -> SamplerOptions:
    def maybe(value: float, off: float) -> float:
        return value if rng.random() < 0.4 else off

    samplers = [name for name in DEFAULT_SAMPLERS if name != "tfs_z"]
    if rng.random() < 0.3:
        rng.shuffle(samplers)
        samplers = samplers[: rng.randint(0, len(samplers))]
    if rng.random() < 0.15:
        samplers.append("adaptive_p")
    typ_p = maybe(rng.uniform(0.1, 0.99), 1.0) if n_vocab <= SMALL else 1.0
    mirostat = rng.choice([0, 0, 0, 0, 1, 2])
    worst_bias = -np.inf if typ_p == 1.0 and mirostat != 1 else -3.0
    biased = rng.sample(range(n_vocab), rng.choice([0, 0, 3]))
    return SamplerOptions(
        seed=rng.randrange(2**32 - 1),
        min_keep=rng.choice([0, 0, 0, 1, 3]),
        top_k=rng.choice([0, 1, 5, 40, 300]),
        top_p=rng.choice([1.0, 0.95, 0.5, rng.random()]),
        min_p=rng.choice([0.0, 0.05, rng.random()]),
        xtc_probability=maybe(0.7, 0.0),
        xtc_threshold=rng.uniform(0.02, 0.6),
        typ_p=typ_p,
        temp=rng.choice([0.8, 0.0, 1.0, rng.uniform(0.3, 2.0)]),
        dynatemp_range=maybe(rng.uniform(0.0, 1.0), 0.0),
        dynatemp_exponent=rng.choice([1.0, rng.uniform(0.5, 2.0)]),
        penalty_last_n=rng.choice([-1, 0, 8, 64]),
        penalty_repeat=maybe(rng.uniform(0.8, 1.5), 1.0),
        penalty_freq=maybe(rng.uniform(-0.5, 1.0), 0.0),
        penalty_present=maybe(rng.uniform(-0.5, 1.0), 0.0),
        dry_multiplier=maybe(rng.uniform(0.1, 2.0), 0.0),
        dry_base=rng.choice([1.0, 1.75, rng.uniform(1.0, 3.0)]),
        dry_allowed_length=rng.choice([0, 1, 2, 4]),
        dry_penalty_last_n=rng.choice([-1, 0, 8, 64]),
        dry_sequence_breakers=rng.choice([("\n", ":", '"', "*"), (), ("the end", ". ", "é"), ("ab", "abc")]),
        adaptive_target=rng.choice([-1.0, rng.random()]),
        adaptive_decay=rng.uniform(0.0, 0.99),
        mirostat=mirostat,
        mirostat_tau=rng.uniform(1.0, 3.0 if mirostat == 1 else 6.0),
        mirostat_eta=rng.uniform(0.05, 0.5),
        top_n_sigma=maybe(rng.uniform(0.5, 3.0), -1.0) if typ_p == 1.0 else -1.0,
        samplers=tuple(samplers),
        logit_bias={token: rng.choice([worst_bias, rng.uniform(-5, 5)]) for token in biased},
    )


def peer_samplers(o: SamplerOptions, vocab: Vocabulary, n_vocab: int) -> Iterator[object]:
    """The chain as llama.cpp's common/sampling.cpp builds it."""
    if o.logit_bias:
        biases = [peer.llama_logit_bias(token, value) for token, value in o.logit_bias.items()]
        yield peer.llama_sampler_init_logit_bias(n_vocab, len(biases), (peer.llama_logit_bias * len(biases))(*biases))
    if o.mirostat:
        yield peer.llama_sampler_init_temp(o.temp)
        if o.mirostat == 1:
            yield peer.llama_sampler_init_mirostat(n_vocab, o.seed, o.mirostat_tau, o.mirostat_eta, 100)
        else:
            yield peer.llama_sampler_init_mirostat_v2(o.seed, o.mirostat_tau, o.mirostat_eta)
        return
    breakers = (ctypes.c_char_p * len(o.dry_sequence_breakers))(*(text.encode() for text in o.dry_sequence_breakers))
    windows = [CONTEXT if n < 0 else n for n in (o.penalty_last_n, o.dry_penalty_last_n)]
    makers = {
        "penalties": lambda: peer.llama_sampler_init_penalties(
            n_vocab, windows[0], o.penalty_repeat, o.penalty_freq, o.penalty_present
        ),
        "dry": lambda: peer.llama_sampler_init_dry(
            vocab.handle, o.dry_multiplier, o.dry_base, o.dry_allowed_length, windows[1], breakers, len(breakers)
        ),
        "top_n_sigma": lambda: peer.llama_sampler_init_top_n_sigma(o.top_n_sigma),
        "top_k": lambda: peer.llama_sampler_init_top_k(o.top_k),
        "typ_p": lambda: peer.llama_sampler_init_typical(o.typ_p, o.min_keep),
        "top_p": lambda: peer.llama_sampler_init_top_p(o.top_p, o.min_keep),
        "min_p": lambda: peer.llama_sampler_init_min_p(o.min_p, o.min_keep),
        "xtc": lambda: peer.llama_sampler_init_xtc(o.xtc_probability, o.xtc_threshold, o.min_keep, o.seed),
        "temperature": lambda: peer.llama_sampler_init_temp_ext(o.temp, o.dynatemp_range, o.dynatemp_exponent),
    }
    yield from (makers[name]() for name in o.samplers if name != "adaptive_p")
    if "adaptive_p" in o.samplers:
        yield peer.llama_sampler_init_adaptive_p(o.adaptive_target, o.adaptive_decay, o.seed)
    else:
        yield peer.llama_sampler_init_dist(o.seed)


@contextmanager
def peer_chain(o: SamplerOptions, vocab: Vocabulary, n_vocab: int) -> Iterator[object]:
    chain = peer.llama_sampler_chain_init(peer.llama_sampler_chain_default_params())
    for sampler in peer_samplers(o, vocab, n_vocab):
        peer.llama_sampler_chain_add(chain, sampler)
    try:
        yield chain
    finally:
        peer.llama_sampler_free(chain)


def peer_sample(chain: object, logits: np.ndarray) -> tuple[int, dict[int, float]]:
    """llama.cpp's choice and the probabilities it drew from."""
    data = (peer.llama_token_data * logits.size)()
    for token, logit in enumerate(logits.tolist()):
        data[token].id, data[token].logit = token, logit
    array = peer.llama_token_data_array(data, logits.size, -1, False)
    peer.llama_sampler_apply(chain, ctypes.byref(array))
    left = [array.data[i] for i in range(array.size)]
    return left[array.selected].id, {item.id: item.p for item in left}


def difference(ours: Sampler, chain: object, logits: np.ndarray) -> tuple[int, str]:
    """llama.cpp's choice, and how ours differs ("" when it does not)."""
    ids, probs = ours.probabilities(logits)
    mine = dict(zip(ids.tolist(), probs.tolist(), strict=True))
    chosen = ours.sample(logits)
    wanted, theirs = peer_sample(chain, logits)
    tolerance = TOLERANCE if logits.size <= 2000 else TOLERANCE_WHOLE
    worst = max(mine.keys() | theirs.keys(), key=lambda token: abs(mine.get(token, 0.0) - theirs.get(token, 0.0)))
    if abs(mine.get(worst, 0.0) - theirs.get(worst, 0.0)) > tolerance:
        return wanted, (
            f"token {worst}: probability {mine.get(worst, 0.0):.6f}, llama.cpp {theirs.get(worst, 0.0):.6f} "
            f"({len(mine)} and {len(theirs)} candidates)"
        )
    order = ids.tolist()
    ranks_apart = abs(order.index(chosen) - order.index(wanted))
    # A draw that falls on the border of two among tens of thousands goes by the rounding of exp().
    agree = chosen == wanted or (logits.size > SMALL and ranks_apart == 1)
    return wanted, "" if agree else f"chose {chosen}, llama.cpp {wanted}"


def random_history(rng: random.Random, vocab: Vocabulary, n_vocab: int) -> list[int]:
    """Repetitive tokens; for the whole vocabulary, text that holds the breakers in pieces."""
    length = rng.choice([0, 5, 100, 300])
    if n_vocab == len(vocab.pieces()):
        words = rng.sample(["the end", "then", " the", "a", "b", "abc", ".", ". ", "é", "\n", " end", "* ", ":"], 4)
        return vocab.encode("".join(rng.choices(words, k=length // 3)).encode())
    return rng.choices(rng.sample(range(n_vocab), rng.choice([2, 5, 20])), k=length)


def trial(rng: random.Random, vocab: Vocabulary) -> str:
    n_vocab = rng.choice([20, SMALL, 2000, 2000, len(vocab.pieces())])
    o = random_options(rng, n_vocab)
    noise = np.random.default_rng(rng.randrange(2**32))

    def breakers(texts: tuple[str, ...]) -> TokenBreakers:
        return TokenBreakers(texts, vocab.pieces().__getitem__, len(vocab.pieces()), vocab.encode)

    ours = build_sampler(
        o,
        n_vocab=n_vocab,
        n_ctx_train=CONTEXT,
        breakers=breakers,
    )
    spreads = [2.0, 5.0] if o.mirostat == 1 or n_vocab > SMALL else [0.5, 2.0, 5.0]
    with peer_chain(o, vocab, n_vocab) as chain:

        def accept(token: int) -> None:
            ours.accept(token)
            peer.llama_sampler_accept(chain, token)

        for token in random_history(rng, vocab, n_vocab):
            accept(token)
        for step in range(TOKENS_PER_TRIAL):
            logits = noise.normal(0.0, rng.choice(spreads), n_vocab).astype(np.float32)
            wanted, found = difference(ours, chain, logits)
            if found:
                return f"step {step}: {found}\n    {o}"
            accept(wanted)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    vocab, failures = Vocabulary(args.vocab), 0
    for number in range(args.trials):
        found = trial(random.Random(args.seed * 1_000_003 + number), vocab)
        if found:
            failures += 1
            print(f"trial {number}: {found}")
    print(f"{args.trials} trials, {failures} differ")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
