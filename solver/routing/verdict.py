"""What a mixture of experts can gain from placing them by how often they are needed, told before the long reading."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model import Model
from powerinfer_cli.placement import MAIN_MEMORY, ActivationStatistics, Plan, RouteTrace, reserve, shown_bytes
from solver.placing import make_plan
from solver.placing.replay import PolicyChoice, choose_policy
from solver.verdict.speed import MachineCosts
from solver.verdict.verdict import LEAST_GAIN, Kind

__all__ = ["ExpertVerdict", "Speeds", "judge_experts", "policy_data", "policy_of"]

QUARTER = 0.25
SKEWED = 0.1  # of the uses, by which a quarter must have more than by chance for a word on skew


@dataclass(frozen=True)
class Speeds:
    """Tokens a second that are predicted: with the most used experts on the GPUs, with those of the last layers
    (`--n-cpu-moe`, named by its flag), and with all in main memory. hot: the share of experts on the GPUs. placed:
    whether the plan puts anything there; fits: whether
    it could.
    """

    by_use: float
    by_layers: float
    named: str
    main_memory: float
    hot: float
    placed: bool
    fits: bool
    budgets: tuple[int, ...]
    machine: str

    @property
    def gain(self) -> float:
        """As a share, over the better of the others."""
        return self.by_use / max(self.by_layers, self.main_memory) - 1

    def line(self) -> str:
        """For people."""
        planned, main = f"with the most used experts on the GPU ({self.hot:.0%} of them)", "in main memory"
        if not self.placed:
            planned, main = "with everything in main memory, as planned", ""
        elif not self.hot:
            planned = "with all experts in main memory, the rest on the GPU"
        budget = " + ".join(map(shown_bytes, self.budgets))
        found = f"{self.by_use:,.1f} {planned}, {self.by_layers:,.1f} with {self.named}"
        found += f", {self.main_memory:,.1f} {main}" if main else ""
        return f"predicted tokens/s with {budget}, {self.machine}: {found}"


@dataclass(frozen=True)
class ExpertVerdict:
    """layers, n_experts, n_chosen: of those that have experts. tokens: that were looked at. expert_bytes: of one, in a
    file; share: of all of them in the file. skew: by layer, what share of the uses the most used quarter has. again:
    share of a token's experts that the token before it has needed. speeds, policy: None without GPU memory; policy
    also where no layer is divided.
    """

    layers: int
    n_experts: int
    n_chosen: int
    tokens: int
    expert_bytes: int
    share: float
    skew: tuple[float, ...]
    again: float
    speeds: Speeds | None = None
    policy: PolicyChoice | None = None

    @property
    def gain(self) -> float:
        return 0.0 if self.speeds is None else self.speeds.gain

    @property
    def pays(self) -> bool:
        return self.gain >= LEAST_GAIN

    def lines(self) -> list[str]:
        """For people: what was found, before the sentence that says what comes of it."""
        low, high = min(self.skew), max(self.skew)
        chance = self.n_chosen / self.n_experts
        found = [
            f"verdict: {Kind.EXPERTS}: {self.n_chosen} of {self.n_experts} in each of {self.layers} layers; "
            f"{self.tokens:,} tokens looked at",
            f"  experts are {self.share:.0%} of the file, each {shown_bytes(self.expert_bytes)}",
            f"  the most used quarter of a layer's experts has {np.mean(self.skew):.0%} of its uses "
            f"(by layer {low:.0%} to {high:.0%}; by chance 25%)",
            f"  {self.again:.0%} of a token's experts have been the last token's as well (by chance {chance:.0%})",
        ]
        if self.policy is not None:
            found.append(f"  {self.policy.line()}")
        if self.speeds is not None:
            found.append(f"  {self.speeds.line()}")
        return found

    def sentence(self, *, forced: bool = False) -> str:
        """In one line, what follows. forced: it goes on all the same."""
        if self.speeds is None:
            found = "nothing to place: no GPU memory may be used, and the CPU reads the chosen experts only"
            return found if forced else f"{found}. --vram-budget N, or --device-profile, plans for a GPU"
        if self.pays:
            return f"worth it: {self.gain:+.0%} tokens/s are to be expected"
        gain = "no more" if self.gain < 0.005 else f"only {self.gain:+.0%}"
        found = f"not worth it: {gain} tokens/s than by whole layers are to be expected{self._why(self.speeds)}"
        return found if forced else f"{found}. --force goes on all the same"

    def _why(self, speeds: Speeds) -> str:
        if not speeds.fits:
            return ", as the budget does not hold one layer"
        if speeds.hot in (0, 1):
            return ", as all experts fit" if speeds.hot else ", as no expert is faster there"
        alike = float(np.mean(self.skew)) < QUARTER + SKEWED
        return ", as the experts are used about equally often" if alike else ""

    def data(self) -> dict[str, Any]:
        """For programs."""
        one, policy = self.speeds, self.policy
        return {
            "kind": Kind.EXPERTS.name.lower(),
            "experts": self.n_experts,
            "chosen": self.n_chosen,
            "layers": self.layers,
            "tokens": self.tokens,
            "expert_bytes": self.expert_bytes,
            "share": self.share,
            "skew": list(self.skew),
            "again": self.again,
            "policies": None if policy is None else policy_data(policy),
            "tokens_per_second": None
            if one is None
            else {
                "by_use": one.by_use,
                "by_layers": one.by_layers,
                "main_memory": one.main_memory,
            },
            "hot": None if one is None else one.hot,
            "gain": self.gain,
            "pays": self.pays,
            "says": self.sentence(),
        }


def policy_data(policy: PolicyChoice) -> dict[str, Any]:
    """For programs."""
    return {
        "hit_rates": {name: one.hit_rate for name, one in policy.replayed.items()},
        "uploads": {name: one.uploads_per_token for name, one in policy.replayed.items()},
        "best": policy.best,
    }


def judge_experts(model: Model, trace: RouteTrace, machine: Callable[[], MachineCosts] | None) -> ExpertVerdict:
    """By the trace of a text. machine: its costs and budgets; None: no GPU memory may be used."""
    counts, first = trace.counts(), trace.layers[0]
    matrices = {i: model.layers[i].ffn.neurons.matrices for i in trace.layers}
    whole = {i: sum(one.nbytes for one in of_layer) for i, of_layer in matrices.items()}
    found = ExpertVerdict(
        layers=len(trace.layers),
        n_experts=trace.n_experts[0],
        n_chosen=trace.n_chosen[0],
        tokens=trace.tokens,
        expert_bytes=whole[first] // trace.n_experts[0],
        share=sum(whole.values()) / model.nbytes,
        skew=tuple(_of_most_used(uses) for uses in counts),
        again=_again(trace),
    )
    if machine is None:
        return found
    costs = machine()
    statistics = _statistics(model, trace)
    made = make_plan(costs.sizes, statistics, costs.budgets, costs.profile, costs.settings)
    none = make_plan(costs.sizes, statistics, (0,) * len(costs.budgets), costs.profile, costs.settings)
    named = next((name for name in made.others if name.startswith("--n-cpu-moe")), "")
    hot = sum(made.plan.layers[i].hot.size for i in trace.layers) / sum(trace.n_experts)
    speeds = Speeds(
        by_use=made.prediction.tokens_per_second,
        by_layers=made.others[named].tokens_per_second if named else none.prediction.tokens_per_second,
        named=named or "--cpu-moe",
        main_memory=none.prediction.tokens_per_second,
        hot=hot,
        placed=bool(made.plan.gpus),
        fits=_holds_some(costs),
        budgets=costs.budgets,
        machine=", ".join(one.name for one in (costs.profile.cpu, *costs.profile.gpus[: len(costs.budgets)])),
    )
    return replace(found, speeds=speeds, policy=policy_of(trace, made.plan))


def _holds_some(costs: MachineCosts) -> bool:
    s = costs.settings
    room = reserve(costs.sizes, costs.budgets, margin=s.margin, max_layers=s.max_layers, shares=s.shares)
    return any(device != MAIN_MEMORY for device in (*room.devices, room.output))


def policy_of(trace: RouteTrace, plan: Plan) -> PolicyChoice | None:
    """What a plan's slots would hit; None where there is nothing to choose: of no layer are some experts hot."""
    slots = [plan.layers[i].hot.size for i in trace.layers]
    divided = any(0 < some < count for some, count in zip(slots, trace.n_experts, strict=True))
    if not divided or trace.tokens < 2:
        return None
    return choose_policy(trace, slots)


def _statistics(model: Model, trace: RouteTrace) -> ActivationStatistics:
    counts = dict(zip(trace.layers, trace.counts(), strict=True))
    every = (counts.get(i, np.full(n, float(trace.tokens))) for i, n in enumerate(model.n_groups))
    return ActivationStatistics(tuple(every), trace.tokens)


def _of_most_used(uses: npt.NDArray[np.float64]) -> float:
    """The share of its uses that a layer's most used quarter has; of a part of an expert, that part."""
    ranked = np.concatenate([[0.0], np.cumsum(np.sort(uses)[::-1])])
    return float(np.interp(QUARTER * uses.size, np.arange(uses.size + 1), ranked) / max(1.0, ranked[-1]))


def _again(trace: RouteTrace) -> float:
    shares = []
    for chosen in trace.chosen:
        now, before = chosen[1:, :, None], chosen[:-1, None, :]
        shares.append(float((now == before).any(axis=2).mean()) if len(now) else 0.0)
    return float(np.mean(shares))
