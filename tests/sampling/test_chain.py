from __future__ import annotations

import math

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.sampling import Sampler, SamplerOptions, TokenBreakers, build_sampler
from tests.sampling.helpers import INF, logits_of, sampler

FALLING = logits_of(0.4, 0.3, 0.2, 0.1)


def table(chain: Sampler, logits: np.ndarray) -> dict[int, float]:
    ids, probs = chain.probabilities(logits)
    return dict(zip(ids.tolist(), probs.tolist(), strict=True))


def penalised(chain: Sampler) -> list[int]:
    """The tokens less likely than the most likely, given equal logits."""
    found = table(chain, np.zeros(10, np.float32))
    return sorted(token for token, p in found.items() if p < max(found.values()) * 0.99)


def test_neutral_options_change_nothing() -> None:
    assert table(sampler(4), FALLING) == pytest.approx({0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1})


def test_defaults_by_hand() -> None:
    # top-k 40 keeps all, top-p 0.95 drops the last, min-p 0.05 keeps 0.0526 and more; then the powers 1 / 0.8.
    probs = [0.6, 0.3, 0.06, 0.03, 0.01]
    chain = build_sampler(SamplerOptions(seed=1), n_vocab=5, n_ctx_train=8)
    powers = [p**1.25 for p in probs[:3]]
    expected = {token: power / sum(powers) for token, power in enumerate(powers)}
    assert table(chain, logits_of(*probs)) == pytest.approx(expected, abs=1e-6)


def test_order_matters() -> None:
    # Of the top two, 0.571 and 0.429, the first reaches 0.55 alone; of all four it needs two.
    options = {"top_k": 2, "top_p": 0.55}
    assert set(table(sampler(4, samplers=("top_k", "top_p"), **options), FALLING)) == {0}
    assert set(table(sampler(4, samplers=("top_p", "top_k"), **options), FALLING)) == {0, 1}


def test_only_the_named_samplers_run() -> None:
    assert len(table(sampler(4, samplers=(), top_k=1, temp=0.0), FALLING)) == 4


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_p": 0.6}, {0, 1}),
        ({"min_p": 0.6}, {0, 1}),
        ({"typ_p": 0.2}, {1}),
        ({"tfs_z": 0.25}, {0}),
        ({"top_n_sigma": 0.8}, {0, 1}),
        ({"temp": 0.0}, {0}),
        ({"dynatemp_range": 0.5}, {0, 1, 2, 3}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.15}, {2, 3}),
        ({"top_p": 0.1, "min_keep": 3}, {0, 1, 2}),
        ({"min_p": 0.9, "min_keep": 2}, {0, 1}),
        ({"typ_p": 0.2, "min_keep": 2}, {1, 2}),
        ({"tfs_z": 0.25, "min_keep": 1}, {0}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.15, "min_keep": 3}, {0, 1, 2, 3}),
        ({"logit_bias": {0: -INF, 3: 1.0}, "top_k": 1}, {1}),
        ({"mirostat": 2, "mirostat_tau": 1.0, "top_k": 1}, {0, 1}),
        ({"mirostat": 1, "mirostat_tau": 1.0, "temp": 0.0}, {0}),
    ],
)
def test_every_option_reaches_its_sampler(options: dict[str, object], left: set[int]) -> None:
    assert set(table(sampler(4, **options), FALLING)) == left


def test_dynamic_temperature_reaches_its_sampler() -> None:
    # H(3/4, 1/4) is 0.811278 bit, squared 0.658172; 0.5 + 0.658172 = 1.158172
    found = table(sampler(2, dynatemp_range=0.5, dynatemp_exponent=2.0), logits_of(0.75, 0.25))
    assert math.log(found[0] / found[1]) == pytest.approx(math.log(3) / 1.158172, rel=1e-5)


@pytest.mark.parametrize(("last_n", "expected"), [(0, []), (2, [4, 5]), (3, [3, 4, 5]), (-1, [2, 3, 4, 5])])
def test_penalties_look_back_so_far(last_n: int, expected: list[int]) -> None:
    options = SamplerOptions(penalty_last_n=last_n, penalty_repeat=1.0, penalty_present=1.0, top_k=0, top_p=1.0)
    chain = build_sampler(options, n_vocab=10, n_ctx_train=4)
    for token in (1, 2, 3, 4, 5):
        chain.accept(token)
    assert penalised(chain) == expected
    chain.reset()
    assert penalised(chain) == []


def test_history_can_be_replaced() -> None:
    chain = sampler(10, penalty_present=1.0)
    for token in (1, 2, 3):
        chain.accept(token)
    chain.replace_history([3, 4])
    assert penalised(chain) == [3, 4]
    with pytest.raises(PowerInferError, match="token 10 is outside the vocabulary"):
        chain.replace_history([10])


@pytest.mark.parametrize(("field", "factor"), [("penalty_freq", 2.0), ("penalty_present", 1.0)])
def test_counts_matter_to_the_frequency_alone(field: str, factor: float) -> None:
    chain = sampler(2, **{field: 0.5})
    chain.accept(1)
    chain.accept(1)
    found = table(chain, np.zeros(2, np.float32))
    assert found[0] / found[1] == pytest.approx(math.exp(0.5 * factor))


def test_repeat_penalty() -> None:
    chain = sampler(2, penalty_repeat=2.0)
    chain.accept(1)
    found = table(chain, np.array([0.0, 3.0], np.float32))
    assert found[1] / found[0] == pytest.approx(math.exp(1.5))


@pytest.mark.parametrize(("last_n", "expected"), [(64, [2]), (-1, [2]), (4, []), (0, [])])
def test_dry_looks_back_so_far(last_n: int, expected: list[int]) -> None:
    chain = sampler(10, dry_multiplier=1.0, dry_penalty_last_n=last_n, dry_sequence_breakers=())
    for token in (0, 1, 2, 0, 1):
        chain.accept(token)
    assert penalised(chain) == expected


def test_dry_asks_for_the_vocabulary_only_when_it_is_on() -> None:
    pieces = [b"a", b"b", b"c", b"a:", b"\n", b"e", b"f", b"g", b"h", b"i"]

    def build(**options: object) -> Sampler:
        return build_sampler(
            SamplerOptions(top_k=0, min_p=0.0, top_p=1.0, **options),  # type: ignore[arg-type]
            n_vocab=10,
            n_ctx_train=8,
            breakers=lambda texts: TokenBreakers(texts, pieces.__getitem__, 10, lambda text: [0]),
        )

    for breaker, expected in ((4, []), (3, []), (5, [2])):
        chain = build(dry_multiplier=1.0)
        for token in (0, 1, 2, 0, breaker, 1, 2, 0, 1) if breaker == 5 else (0, 1, 2, 0, 1, breaker):
            chain.accept(token)
        assert penalised(chain) == expected
    with pytest.raises(PowerInferError, match="--dry-sequence-breaker none"):
        build_sampler(SamplerOptions(dry_multiplier=1.0), n_vocab=3, n_ctx_train=8)
    for options in ({"dry_penalty_last_n": 0}, {"samplers": ("top_k",)}, {"mirostat": 2}):
        build_sampler(SamplerOptions(dry_multiplier=1.0, **options), n_vocab=3, n_ctx_train=8)  # type: ignore[arg-type]


def test_bias_and_ignore_eos() -> None:
    options = SamplerOptions(ignore_eos=True, logit_bias={1: 1.0, 2: 5.0}, top_k=0, top_p=1.0, min_p=0.0, temp=1.0)
    chain = build_sampler(options, n_vocab=4, n_ctx_train=8, eog_ids=frozenset({2, 3}))
    found = table(chain, np.zeros(4, np.float32))
    assert found == pytest.approx({0: 1 / (1 + math.e), 1: math.e / (1 + math.e)})


@pytest.mark.parametrize("token", [-1, 4])
def test_bias_on_no_token(token: int) -> None:
    with pytest.raises(UsageError, match=f"--logit-bias: token {token} is outside the vocabulary \\(0 to 3\\)"):
        sampler(4, logit_bias={token: 1.0})


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_damaged_logits(bad: float) -> None:
    with pytest.raises(PowerInferError, match="NaN or infinity"):
        sampler(3).sample(np.array([0.0, bad, 0.0], np.float32))


def test_impossible_logits() -> None:
    with pytest.raises(PowerInferError, match="every logit is -inf"):
        sampler(2).sample(np.full(2, -INF, np.float32))
    with pytest.raises(PowerInferError, match="shape \\(2,\\), expected \\(3,\\)"):
        sampler(3).sample(np.zeros(2, np.float32))
    with pytest.raises(PowerInferError, match="every token is ruled out"):
        sampler(2, logit_bias={0: -INF, 1: -INF}).sample(np.zeros(2, np.float32))
    with pytest.raises(PowerInferError, match="outside the vocabulary"):
        sampler(2).accept(2)


def test_overflowing_penalties_are_one_line() -> None:
    chain = sampler(2, penalty_freq=-3e38)
    for _ in range(3):
        chain.accept(0)
    with pytest.raises(PowerInferError, match="a penalty overflows"):
        chain.sample(np.zeros(2, np.float32))


def test_the_callers_logits_are_left_alone() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    logits.flags.writeable = False
    chain = sampler(3, penalty_repeat=1.5, temp=0.7, top_n_sigma=1.0, logit_bias={0: 1.0})
    chain.accept(2)
    chain.sample(logits)
    assert logits.tolist() == [1.0, 2.0, 3.0]


def draw(chain: Sampler, n: int = 30) -> list[int]:
    rng, drawn = np.random.default_rng(5), []
    for _ in range(n):
        drawn.append(chain.sample(rng.normal(size=50).astype(np.float32)))
        chain.accept(drawn[-1])
    return drawn


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mirostat": 1},
        {"mirostat": 2},
        {"samplers": ("adaptive_p",), "adaptive_target": 0.4},
        {"xtc_probability": 0.5, "xtc_threshold": 0.03, "penalty_freq": 0.2},
    ],
)
def test_the_same_seed_chooses_the_same(options: dict[str, object]) -> None:
    chain = sampler(50, **options)
    first = draw(chain)
    assert draw(sampler(50, **options)) == first
    chain.reset()
    assert draw(chain) == first
    assert draw(sampler(50, **{**options, "seed": 2})) != first


def test_a_random_seed_is_told() -> None:
    chain = sampler(50, seed=-1)
    assert draw(chain) == draw(sampler(50, seed=chain.seed))
    assert sampler(50, seed=-1).seed != chain.seed


def test_draws_are_llama_cpps() -> None:
    """What llama_sampler_init_dist(4242) chose among 1000 equal logits."""
    chain, level = sampler(1000, seed=4242), np.zeros(1000, np.float32)
    chosen = [chain.sample(level) for _ in range(12)]
    assert chosen == [808, 241, 452, 333, 157, 833, 514, 663, 152, 910, 56, 443]


def test_a_certain_token_takes_a_draw_as_in_llama_cpp() -> None:
    certain, level = np.full(1000, -INF, np.float32), np.zeros(1000, np.float32)
    certain[7] = 0.0
    plain = sampler(1000, seed=4242, top_k=1000, min_p=0.5)
    assert [plain.sample(certain), plain.sample(level)] == [7, 241]
    # Mirostat draws only where there is a choice; its allowance of 20 bits rules out none of the 1000.
    mirostat = sampler(1000, seed=4242, mirostat=2, mirostat_tau=10.0)
    assert [mirostat.sample(certain), mirostat.sample(level)] == [7, 808]


def test_frequencies_are_the_probabilities() -> None:
    chain = sampler(4)
    counts = np.bincount([chain.sample(FALLING) for _ in range(5000)], minlength=4)
    assert counts / 5000 == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.02)


def test_xtc_acts_as_often_as_asked() -> None:
    chain = sampler(2, xtc_probability=0.3, xtc_threshold=0.1)
    # Where it acts, only token 1 is left; elsewhere token 1 has its own chance.
    counts = np.bincount([chain.sample(logits_of(0.88, 0.12)) for _ in range(3000)], minlength=2)
    assert counts[1] / 3000 == pytest.approx(0.3 + 0.7 * 0.12, abs=0.03)


@pytest.mark.parametrize("options", [{"xtc_probability": 0.5, "xtc_threshold": 0.03}, {"mirostat": 2}])
def test_probabilities_foretell_and_change_nothing(options: dict[str, object]) -> None:
    chain, twin, level = sampler(50, **options), sampler(50, **options), np.arange(50, dtype=np.float32) / 9
    for _ in range(20):
        ids, probs = chain.probabilities(level)
        assert probs.sum() == pytest.approx(1.0, abs=1e-5)
        assert (np.diff(probs) <= 0).all()
        chosen = chain.sample(level)
        assert chosen in ids
        assert chosen == twin.sample(level)


def test_mirostat_learns_as_it_samples() -> None:
    # A certain token surprises by 0 bits, so the allowance grows by eta * tau: 2, then 2.5.
    chain = sampler(3, mirostat=2, mirostat_tau=1.0, mirostat_eta=0.5)
    quarters = logits_of(0.64, 0.2, 0.16)  # 0.64, 2.32 and 2.64 bits
    assert set(table(chain, quarters)) == {0}
    chain.sample(logits_of(1.0, 0.0, 0.0))
    assert set(table(chain, quarters)) == {0, 1}
    chain.sample(logits_of(1.0, 0.0, 0.0))
    assert set(table(chain, quarters)) == {0, 1, 2}
    chain.reset()
    assert set(table(chain, quarters)) == {0}


def test_adaptive_p_learns_as_it_accepts() -> None:
    chain = sampler(3, samplers=("adaptive_p",), adaptive_target=0.5, adaptive_decay=0.5)
    start = logits_of(0.5, 0.3, 0.2)
    assert max(table(chain, start).items(), key=lambda item: item[1])[0] == 0
    for _ in range(2):
        chain.accept(chain.sample(logits_of(1.0, 0.0, 0.0)))
    # Two certain tokens: the average rises to 0.75 and 0.875, so the target falls to 2 * 0.5 - 0.875; 0.2 is nearest.
    assert max(table(chain, start).items(), key=lambda item: item[1])[0] == 2
