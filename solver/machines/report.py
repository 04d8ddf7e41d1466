"""What is told of a plan for several machines."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model.ranges import shown_ranges
from powerinfer_cli.placement import shown_bytes
from solver.machines.network import Network
from solver.machines.plan import FLOAT, MachinesPlan, Pipeline

__all__ = ["best_number", "command", "machines_data", "sentence", "shown_vram"]

GAIN = 1.02  # what another machine must bring, in times as many tokens a second


def best_number(plans: Mapping[int, MachinesPlan], pipeline: Pipeline, network: Network) -> int:
    """Of machines: the fastest, where fewer are about as fast these.

    Raises:
        PowerInferError: there is no plan.
    """
    if not plans:
        there = sum(max(0, one.memory - pipeline.main.rank) for one in network.machines)
        needed = pipeline.needed - pipeline.main.rank
        raise PowerInferError(
            f"{shown_bytes(needed)} of weights and KV cache do not fit the machines, whose memory has room for "
            f"{shown_bytes(there)} beside {shown_bytes(pipeline.main.rank)} that any rank takes: add machines, or give "
            "a smaller -c"
        )
    best = min(plans)
    for n in sorted(plans):
        if plans[n].tokens_per_second > GAIN * plans[best].tokens_per_second:
            best = n
    return best


def sentence(plans: Mapping[int, MachinesPlan], best: int, network: Network, n_texts: int) -> str:
    """Whether several machines pay."""
    speed = f"{plans[best].tokens_per_second:,.1f} tokens/s"
    texts = "one text" if n_texts == 1 else f"{n_texts} texts"
    names = ", ".join(network.machines[m].name for m in plans[best].machines)
    least = min(plans)
    if best == 1:
        others = [n for n in plans if n > 1]
        if not others:
            return f"it fits one machine, {names}: {speed} of {texts} are predicted"
        other = max(others, key=lambda n: plans[n].tokens_per_second)
        return (
            f"a second machine does not pay: {speed} of {texts} are predicted on {names} alone, "
            f"{plans[other].tokens_per_second:,.1f} on {other}"
        )
    if best == least:
        return f"it does not fit fewer than {best} machines ({names}): {speed} of {texts} are predicted"
    times = plans[best].tokens_per_second / plans[least].tokens_per_second
    return f"{best} machines pay ({names}): {speed} of {texts} are predicted, {times:.2f} times those on {least}"


def command(plan: MachinesPlan, network: Network, flags: Sequence[str], pipeline: Pipeline) -> str:
    """How it is run, for a shell. flags: the model, and what else was planned with that is no part of the pipeline."""
    serving = ["--port", "8080", "-np", str(pipeline.n_texts)] if pipeline.n_texts > 1 else []
    budgets = [network.machines[m].vram for m in plan.machines]
    wishes = [*flags, "-c", str(pipeline.n_ctx), *_vram(budgets), *serving]
    if len(plan.machines) == 1:
        return shlex.join(["powerinfer", "server" if serving else "main", *wishes])
    hosts = ",".join(network.machines[m].host for m in plan.machines)
    ranks = ["--hosts", hosts, "--layers", shown_ranges(plan.ranges), "--cluster-key-file", "KEY"]
    link = [] if pipeline.link == FLOAT else ["--link-type", "bf16"]
    return shlex.join(["powerinfer", "cluster", "run", *ranks, *link, *wishes])


def _vram(budgets: Sequence[tuple[int, ...]]) -> list[str]:
    """VRAM stands for what each machine has, where that differs."""
    if not any(map(any, budgets)):
        return []
    return ["--vram-budget", shown_vram(budgets[0]) if len(set(budgets)) == 1 else "VRAM"]


def shown_vram(budgets: tuple[int, ...]) -> str:
    """Bytes by GPU, as --vram-budget takes them."""
    return ",".join(f"{budget / (1 << 30):g}" for budget in budgets) or "0"


def machines_data(
    plans: Mapping[int, MachinesPlan], best: int, pipeline: Pipeline, network: Network, flags: Sequence[str]
) -> dict[str, Any]:
    """For programs. flags: as of `command`."""
    return {
        "best": best,
        "verdict": sentence(plans, best, network, pipeline.n_texts),
        "command": command(plans[best], network, flags, pipeline),
        "texts": pipeline.n_texts,
        "plans": [_plan_data(plan, pipeline, network) for plan in plans.values()],
    }


def _plan_data(plan: MachinesPlan, pipeline: Pipeline, network: Network) -> dict[str, Any]:
    parts = zip(plan.machines, plan.ranges, plan.stages, strict=True)
    return {
        "machines": [
            {
                "name": network.machines[m].name,
                "host": network.machines[m].host,
                "vram_budget": shown_vram(network.machines[m].vram),
                "layers": [layers.begin, layers.end - 1],
                "seconds_of_a_step": stage,
            }
            for m, layers, stage in parts
        ],
        "tokens_per_second": plan.tokens_per_second,
        "tokens_per_second_of_one_text": plan.one_text,
        "tokens_per_second_at_most": plan.bound if math.isfinite(plan.bound) else None,
        "tokens_per_second_of_dynamic_programming": plan.twin,
    }
