"""What `peer.py` compares, and how its figures follow from the samples. Nothing runs here."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CASES", "Case", "Figure", "Measure", "Model", "Run", "Sample", "figure", "runs_of"]


class Measure(StrEnum):
    """How a case's runs make its figure."""

    SPEED = "ours over theirs"
    DEPTH = "what is left of the speed at depth: ours over theirs"
    BANDWIDTH = "share of the measured bandwidth"
    RUNG = "the lower rung over the best one"


@dataclass(frozen=True)
class Model:
    """A synthetic file; `dense`: llama.cpp can run it, being a sparse model's twin, or of experts."""

    shape: str
    type: str
    dense: bool


@dataclass(frozen=True)
class Run:
    """One engine on one model: so many tokens of a prompt, or generated, behind `depth` tokens."""

    ours: bool
    model: Model
    n_prompt: int
    n_gen: int
    depth: int = 0
    rung: str = ""


@dataclass(frozen=True)
class Sample:
    """What one round of a run gave."""

    tokens_per_second: float
    share_of_bandwidth: float | None = None


@dataclass(frozen=True)
class Case:
    """A line of the table. `ours` and `theirs` hold one run each; for DEPTH two: deep, shallow; RUNG compares ours."""

    name: str
    what: str
    target: float
    measure: Measure
    ours: tuple[Run, ...]
    theirs: tuple[Run, ...]


@dataclass(frozen=True)
class Figure:
    """A case's result: medians over the rounds, and the ratio's spread among them."""

    case: Case
    ours: float
    theirs: float | None
    ratio: float
    lowest: float
    highest: float
    share_of_bandwidth: float | None

    @property
    def met(self) -> bool:
        return self.ratio >= self.case.target


DEPTH = 1500


def _pair(
    name: str,
    what: str,
    target: float,
    model: Model,
    n_prompt: int,
    n_gen: int,
    measure: Measure = Measure.SPEED,
    depth: int = DEPTH,
) -> Case:
    twin = Model(model.shape, model.type, dense=True)
    if measure is Measure.DEPTH:
        depths = (depth, 0)
        ours, theirs = (
            tuple(Run(us, m, n_prompt, n_gen, depth) for depth in depths) for us, m in ((True, model), (False, twin))
        )
        return Case(name, what, target, measure, ours, theirs)
    ours = (Run(True, model, n_prompt, n_gen),)
    return Case(name, what, target, measure, ours, (Run(False, twin, n_prompt, n_gen),))


def _ours(name: str, what: str, target: float, model: Model, n_gen: int) -> Case:
    return Case(name, what, target, Measure.BANDWIDTH, (Run(True, model, 0, n_gen),), ())


def _rung(name: str, what: str, target: float, model: Model, n_prompt: int, n_gen: int) -> Case:
    lower, best = (Run(True, model, n_prompt, n_gen, rung=rung) for rung in ("avx2", ""))
    return Case(name, what, target, Measure.RUNG, (lower,), (best,))


TOKENS, TOKENS_7B, PROMPT = 64, 32, 512
_SPARSE, _DENSE = Model("1.1b", "Q4_0", dense=False), Model("1.1b", "Q4_0", dense=True)
_EXPERTS, _EXPERTS_K = (Model("qwen3moe", kind, dense=True) for kind in ("Q4_0", "Q4_K_M"))
_GPT_OSS, _RECURRENT = Model("gpt-oss", "MXFP4", dense=True), Model("qwen35moe", "Q4_0", dense=True)
_MAMBA = Model("granitehybrid", "Q4_0", dense=True)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        _pair("sparse-1.1b", "decode, sparse 1.1B", 2.5, _SPARSE, 0, TOKENS),
        _pair("sparse-7b", "decode, sparse 7B", 2.2, Model("7b", "Q4_0", dense=False), 0, TOKENS_7B),
        _pair("dense-q4_0", "decode, dense 1.1B, Q4_0", 1.1, _DENSE, 0, TOKENS),
        _pair("dense-q8_0", "decode, dense 1.1B, Q8_0", 1.05, Model("1.1b", "Q8_0", dense=True), 0, TOKENS),
        _pair("dense-q4_k_m", "decode, dense 1.1B, Q4_K_M", 1.0, Model("1.1b", "Q4_K_M", dense=True), 0, TOKENS),
        _pair("prompt-dense", "prompt of 512, dense 1.1B", 1.0, _DENSE, PROMPT, 0),
        _pair("prompt-sparse", "prompt of 512, sparse 1.1B", 1.8, _SPARSE, PROMPT, 0),
        _pair("depth", "decode, dense 1.1B, depth 1500 / 0", 1.0, _DENSE, 0, TOKENS, Measure.DEPTH),
        _pair("depth-sparse", "decode, sparse 1.1B, depth 1500 / 0", 1.0, _SPARSE, 0, TOKENS, Measure.DEPTH),
        _pair("experts-q4_0", "decode, 8 of 128 experts, Q4_0", 1.15, _EXPERTS, 0, TOKENS),
        _pair("experts-q4_k_m", "decode, 8 of 128 experts, Q4_K_M", 1.15, _EXPERTS_K, 0, TOKENS),
        _pair("prompt-experts", "prompt of 512, 8 of 128 experts, Q4_0", 1.5, _EXPERTS, PROMPT, 0),
        _pair("prompt-experts-k", "prompt of 512, 8 of 128 experts, Q4_K_M", 1.5, _EXPERTS_K, PROMPT, 0),
        _pair("gpt-oss", "decode, 4 of 32 experts, MXFP4", 1.1, _GPT_OSS, 0, TOKENS),
        _pair("prompt-gpt-oss", "prompt of 512, 4 of 32 experts, MXFP4", 1.3, _GPT_OSS, PROMPT, 0),
        _pair("recurrent", "decode, qwen35moe: delta nets, 8 of 256 experts", 1.15, _RECURRENT, 0, TOKENS),
        _pair("prompt-recurrent", "prompt of 512, qwen35moe", 1.3, _RECURRENT, PROMPT, 0),
        _pair("depth-recurrent", "decode, qwen35moe, depth 8000 / 0", 1.0, _RECURRENT, 0, TOKENS, Measure.DEPTH, 8000),
        _pair("mamba", "decode, granitehybrid: Mamba-2", 1.15, _MAMBA, 0, TOKENS),
        _pair("prompt-mamba", "prompt of 512, granitehybrid", 1.3, _MAMBA, PROMPT, 0),
        _ours("bandwidth-experts", "bandwidth used, decode, 8 of 128 experts", 0.75, _EXPERTS, TOKENS),
        _ours("bandwidth-experts-k", "bandwidth used, decode, 8 of 128 experts, Q4_K_M", 0.75, _EXPERTS_K, TOKENS),
        _ours("bandwidth-gpt-oss", "bandwidth used, decode, 4 of 32 experts, MXFP4", 0.75, _GPT_OSS, TOKENS),
        _ours("bandwidth-dense", "bandwidth used, decode, dense 1.1B", 0.8, _DENSE, TOKENS),
        _ours("bandwidth-sparse", "bandwidth used, decode, sparse 1.1B", 0.8, _SPARSE, TOKENS),
        _rung("avx2", "decode, dense 1.1B, AVX2 / best", 0.75, _DENSE, 0, TOKENS),
        _rung("avx2-prompt", "prompt of 512, dense 1.1B, AVX2 / best", 0.75, _DENSE, PROMPT, 0),
    )
}


def runs_of(cases: Sequence[Case]) -> list[Run]:
    """Every run once, in an order in which those that are compared stand next to each other."""
    order: dict[Run, None] = {}
    for case in cases:
        for i in range(max(len(case.ours), len(case.theirs))):
            order |= dict.fromkeys((*case.ours[i : i + 1], *case.theirs[i : i + 1]))
    return list(order)


def figure(case: Case, samples: Mapping[Run, Sequence[Sample]]) -> Figure:
    """From the samples of all rounds, [round] for each run."""

    def speeds(run: Run) -> list[float]:
        return [sample.tokens_per_second for sample in samples[run]]

    def values(runs: tuple[Run, ...]) -> list[float]:
        if case.measure is Measure.DEPTH:
            deep, shallow = map(speeds, runs)
            return [a / b for a, b in zip(deep, shallow, strict=True)]
        return speeds(runs[0])

    shares = [s.share_of_bandwidth for s in samples[case.ours[0]] if s.share_of_bandwidth is not None]
    share = statistics.median(shares) if shares else None
    if case.measure is Measure.BANDWIDTH:
        ours = statistics.median(speeds(case.ours[0]))
        return Figure(case, ours, None, share or 0.0, min(shares, default=0.0), max(shares, default=0.0), share)
    mine, other = values(case.ours), values(case.theirs)
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    ours, theirs = statistics.median(mine), statistics.median(other)
    return Figure(case, ours, theirs, ours / theirs, min(ratios), max(ratios), share)
