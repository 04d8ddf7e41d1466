"""Texts that are drawn with drafts are distributed as exact arithmetic has it, whoever proposes what."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2

from powerinfer_cli.drafting import Draft, Drafter, DraftingEngine, DraftOptions, NgramDrafter, Wish
from powerinfer_cli.model import load_model
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.sampling import SamplerOptions, build_sampler
from powerinfer_cli.sampling.grammars.constrained import sample
from tests.helpers.tiny_models import tiny_model

VOCAB, LENGTH, SEEDS = 6, 3, 1200
PROMPT = [1, 2, 3, 1, 2]
REPEAT, PRESENT, TOP_K = 1.4, 0.3, 4
Text: TypeAlias = tuple[int, ...]
Exact: TypeAlias = dict[Text, float]


class Parity:
    """A Constraint: behind an odd token comes an even one."""

    finished = False

    def __init__(self) -> None:
        self.last = PROMPT[-1]

    def allows(self, token: int) -> bool:
        return self.last % 2 == 0 or token % 2 == 0

    def allowed(self) -> np.ndarray:
        return np.array([self.allows(token) for token in range(VOCAB)])

    def accept(self, token: int) -> None:
        self.last = token


class Certain:
    """Proposes the tokens of one rank of the model's own, by a table: the likeliest, or those that are hardly drawn."""

    cost = 0.0

    def __init__(self, table: Mapping[Text, Text]) -> None:
        self.table = table

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        found: list[int] = []
        while len(found) < max(1, wishes[0](0)) and (tail := (*texts[0][len(PROMPT) :], *found)) in self.table:
            found.append(self.table[tail][0])
        return {0: Draft(found)} if found else {}

    def forget(self, sequence: int, n: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, dict[Text, np.ndarray]]:
    """A model of six tokens, and its logits behind every text that is shorter than LENGTH."""
    tiny = tiny_model("llama-relu").file
    ends = ("token_embd.weight", "output.weight")
    file = tiny.with_tensors({name: tiny.tensors[name][:VOCAB] for name in ends if name in tiny.tensors})
    model = load_model(file.with_metadata(vocab_size=VOCAB).open(tmp_path_factory.mktemp("six")))
    engine = Engine(model, EngineOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32"))
    found: dict[Text, np.ndarray] = {}
    for n in range(LENGTH):
        for text in product(range(VOCAB), repeat=n):
            engine.reset()
            following = engine.prefill(PROMPT)
            for token in text:
                following = engine.decode(token)
            found[text] = following.astype(np.float64)
    return model, found


def chances(logits: np.ndarray, text: Text, temperature: float, allowed: np.ndarray) -> np.ndarray:
    """Penalties, the TOP_K largest, temperature; of those that are allowed."""
    values = np.where(allowed, logits, -np.inf)
    for token in {*PROMPT, *text}:
        values[token] = values[token] * REPEAT if values[token] <= 0 else values[token] / REPEAT
        values[token] -= PRESENT
    least = np.sort(values)[-TOP_K]
    found: np.ndarray = softmax(np.where(values >= least, values, -np.inf) / temperature)
    return found


def exact(logits: Mapping[Text, np.ndarray], temperature: float, *, parity: bool) -> Exact:
    """What is drawn and not allowed is drawn anew, from those that are."""
    found: Exact = {(): 1.0}
    for _ in range(LENGTH):
        longer: Exact = {}
        for text, chance in found.items():
            everyone = np.ones(VOCAB, bool)
            own = chances(logits[text], text, temperature, everyone)
            if parity and (*PROMPT, *text)[-1] % 2:
                even = np.arange(VOCAB) % 2 == 0
                own = np.where(even, own, 0) + own[~even].sum() * chances(logits[text], text, temperature, even)
            longer |= {(*text, token): chance * float(own[token]) for token in range(VOCAB)}
        found = longer
    return found


def p_value(seen: Counter[Text], wanted: Exact) -> float:
    """Of Pearson's test; texts that are expected less than five times are counted together."""
    total = sum(seen.values())
    assert all(wanted[text] > 0 for text in seen)
    rare = [text for text, chance in wanted.items() if chance * total < 5]
    common = [text for text in wanted if wanted[text] * total >= 5]
    counts = np.array([*(seen[text] for text in common), sum(seen[text] for text in rare)])
    means = total * np.array([*(wanted[text] for text in common), sum(wanted[text] for text in rare)])
    keep = means > 0
    return float(chi2.sf(((counts - means)[keep] ** 2 / means[keep]).sum(), keep.sum() - 1))


@pytest.mark.parametrize(("who", "parity"), [("ngrams", False), ("likeliest", True), ("least likely", False)])
def test_distribution(logits: tuple[object, dict[Text, np.ndarray]], who: str, parity: bool) -> None:
    model, known = logits
    temperature = 1.3
    ranks = {text: tuple(np.argsort(-own if who == "likeliest" else own)) for text, own in known.items()}
    makers: dict[str, Callable[[], Drafter]] = {"ngrams": lambda: NgramDrafter(1, 1, 4)}
    maker = makers.get(who, lambda: Certain({text: tuple(map(int, order)) for text, order in ranks.items()}))
    options = EngineOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32")
    engine = DraftingEngine(model, options, drafter=lambda _: maker(), drafts=DraftOptions(most=4))  # type: ignore[arg-type]
    engine.prefill(PROMPT[:-1])

    def drawn(seed: int) -> Text:
        chain = SamplerOptions(
            seed=seed,
            temp=temperature,
            top_k=TOP_K,
            penalty_repeat=REPEAT,
            penalty_present=PRESENT,
            samplers=("penalties", "top_k", "temperature"),
        )
        sampler = build_sampler(chain, n_vocab=VOCAB, n_ctx_train=64)
        constraint = Parity() if parity else None
        engine.truncate(len(PROMPT) - 1)
        engine.begin_drafts(0)
        for token in PROMPT:
            sampler.accept(token)
        token, text = PROMPT[-1], list[int]()
        for _ in range(LENGTH):
            token = sample(sampler, engine.decode(token), constraint)
            sampler.accept(token)
            if constraint is not None:
                constraint.accept(token)
            text.append(token)
        accepted.append(engine.drafted().accepted)
        return tuple(text)

    accepted: list[int] = []
    seen = Counter(drawn(seed) for seed in range(SEEDS))
    assert p_value(seen, exact(known, temperature, parity=parity)) > 1e-3
    assert p_value(seen, exact(known, temperature * 1.25, parity=parity)) < 1e-3  # so much it would see
    assert (sum(accepted) > 0) is (who != "least likely")  # TOP_K leaves these out
    assert [drawn(seed) for seed in range(20)] == [drawn(seed) for seed in range(20)]
