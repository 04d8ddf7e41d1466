"""Sampling under a constraint, and the state that it is."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.sampling import SamplerOptions, build_sampler
from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.constrained import sample
from powerinfer_cli.sampling.grammars.grammar import GrammarError, Grammars
from tests.sampling.constrained_texts import END, bpe, bundled, byte_grammars, chance, written

DATE = 'root ::= [0-9]{4} "-" [0-9]{2} ("é" | "😀")'
OPTIONS: list[dict[str, Any]] = [
    {"temp": 2.0},
    {"temp": 0.0},
    {"mirostat": 1},
    {"mirostat": 2, "mirostat_tau": 1.0},
    {"xtc_probability": 1.0, "xtc_threshold": 0.01},
    {"top_k": 1},
    {"top_p": 0.01},
    {"min_p": 0.9},
    {"typ_p": 0.1},
    {"tfs_z": 0.1},
    {"top_n_sigma": 0.5},
    {"dynatemp_range": 1.5},
    {"adaptive_target": 0.3, "samplers": ("top_k", "adaptive_p")},
    {"penalty_repeat": 1.9, "penalty_freq": 2.0, "penalty_present": 2.0},
    {"dry_multiplier": 2.0, "dry_allowed_length": 1},
    {"ignore_eos": True},
    {"logit_bias": dict.fromkeys(range(2816), float("-inf")) | {5: 3.0}},  # gives way to what is needed
]


@pytest.mark.parametrize("changes", OPTIONS, ids=[" ".join(changes) for changes in OPTIONS])
def test_every_sampler_writes_what_is_allowed_and_the_same_again(changes: dict[str, Any]) -> None:
    tokenizer = bundled()
    new = grammars_of(tokenizer).gbnf(DATE)
    for seed in range(3):
        options = SamplerOptions(**{"seed": seed, **changes})
        text = written(tokenizer, new, options)
        assert text is not None
        assert re.fullmatch(r"\d{4}-\d\d(é|😀)", text.decode())
        assert written(tokenizer, new, options) == text


def test_without_a_constraint_and_with_one_that_allows_the_token_nothing_changes() -> None:
    logits = np.zeros(259, np.float32)
    logits[ord("a")] = 20
    plain, bound, free = (build_sampler(SamplerOptions(seed=3), n_vocab=259, n_ctx_train=8) for _ in range(3))
    state = byte_grammars().gbnf("root ::= .*")()
    for _ in range(5):
        token = plain.sample(logits)
        assert token == sample(bound, logits, state) == sample(free, logits, None)


def test_a_text_can_end_exactly_where_it_may() -> None:
    state = byte_grammars().gbnf('root ::= "ab" "c"?')()
    seen = []
    for byte in b"abc":
        seen.append((state.allows(END), state.finished))
        state.accept(byte)
    assert [*seen, (state.allows(END), state.finished)] == [(False, False), (False, False), (True, False), (True, True)]
    assert np.flatnonzero(state.allowed()).tolist() == [END]
    state.accept(END)
    assert state.finished
    assert not state.allows(ord("a"))


def test_a_text_that_has_ended_is_finished() -> None:
    state = byte_grammars().gbnf('root ::= "a"*')()
    assert not state.finished
    state.accept(END)
    assert state.finished
    assert np.flatnonzero(state.allowed()).tolist() == [END]


def test_a_vocabulary_may_have_no_end() -> None:
    grammars = Grammars([bytes([byte]) for byte in range(256)], frozenset(), {})
    state = grammars.gbnf('root ::= "a"')()
    assert not state.finished
    state.accept(ord("a"))
    assert state.finished
    assert not state.allowed().any()
    sampler = build_sampler(SamplerOptions(seed=1), n_vocab=256, n_ctx_train=8)
    with pytest.raises(GrammarError, match="no token that ends it"):
        sample(sampler, np.zeros(256, np.float32), state)


def test_a_token_that_does_not_fit_is_an_error() -> None:
    state = byte_grammars().gbnf('root ::= "a"')()
    with pytest.raises(GrammarError, match="token 98 does not fit the grammar"):
        state.accept(ord("b"))
    state.accept(ord("a"))


def test_what_no_token_can_write_is_an_error() -> None:
    grammars = Grammars([b"a", b"b", b"</s>"], frozenset([2]), {})
    with pytest.raises(GrammarError, match="no text of this vocabulary matches it"):
        grammars.gbnf('root ::= "c"')
    state = grammars.gbnf('root ::= "ac" | "b"')()
    state.accept(0)
    with pytest.raises(GrammarError, match="no token can follow"):
        state.allowed()


@pytest.mark.parametrize("tokenizer", [bundled(), bpe()], ids=["spm", "bpe"])
def test_any_text_is_any_token_of_text(tokenizer: Any) -> None:
    state = grammars_of(tokenizer).gbnf("root ::= .*")()
    allowed = state.allowed()
    for token in range(tokenizer.vocab_size):
        assert allowed[token] == state.allows(token)
        if tokenizer.is_control(token):
            assert allowed[token] == (token in tokenizer.eog_ids)
        elif tokenizer.piece(token).decode("utf-8", "ignore").encode() == tokenizer.piece(token):
            assert allowed[token] == bool(tokenizer.piece(token))


def test_characters_may_be_cut_anywhere() -> None:
    tokenizer = bundled()
    single = {tokenizer.piece(i): i for i in range(tokenizer.vocab_size) if len(tokenizer.piece(i)) == 1}
    state = grammars_of(tokenizer).gbnf('root ::= "日😀"')()
    for byte in "日😀".encode():
        assert not state.finished
        assert {tokenizer.piece(int(i)) for i in np.flatnonzero(state.allowed())} == {bytes([byte])}
        state.accept(single[bytes([byte])])
    assert state.finished


def test_states_are_independent_and_grammars_are_kept() -> None:
    grammars = byte_grammars()
    new = grammars.gbnf('root ::= "ab"')
    assert new == grammars.gbnf('root ::= "ab"')
    assert new != grammars.gbnf('root ::= "ab" ')
    one, other = new(), new()
    one.accept(ord("a"))
    assert (one.allows(ord("b")), other.allows(ord("b")), other.allows(ord("a"))) == (True, False, True)


def test_only_so_many_grammars_are_kept() -> None:
    grammars = byte_grammars()
    first = grammars.gbnf('root ::= "first"')
    for i in range(100):  # each counts as 2,000 characters at least, of 200,000
        grammars.gbnf(f'root ::= "{i} others"')
    assert grammars.gbnf('root ::= "first"') != first


def test_threads_may_share_grammars() -> None:
    tokenizer = bundled()
    grammars = grammars_of(tokenizer)

    def work(n: int) -> bytes | None:
        new = grammars.gbnf(f'root ::= [a-z]{{{n % 3 + 1},9}} "{n % 5}"')
        return written(tokenizer, new, SamplerOptions(seed=n, temp=2.0))

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(work, range(40)))
    assert texts == [work(n) for n in range(40)]
    assert all(text is not None and re.fullmatch(rb"[a-z]{1,9}\d", text) for text in texts)


def test_logits_are_left_as_they_are() -> None:
    rng = np.random.default_rng(1)
    logits = chance(rng, 259)
    before = logits.copy()
    sampler = build_sampler(SamplerOptions(seed=1), n_vocab=259, n_ctx_train=8)
    for text in itertools.islice(("a", "b", "c"), 3):
        sample(sampler, logits, byte_grammars().gbnf(f'root ::= "{text}"')())
    assert np.array_equal(logits, before)
