"""What is asserted of the hybrid runtime on a GPU: equality, budgets, waits. Each check says what it saw."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime import Engine
from powerinfer_cli.runtime.hybrid.backend import HybridBackend
from scripts.gpu.models import Case, plan_for, tokens

__all__ = ["Finding", "budgets", "equality", "suites", "waits"]

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
TEN = tuple(np.linspace(0.1, 1.0, 10))
TOLERANCE = 1e-4
GREEDY = 24


@dataclass(frozen=True)
class Finding:
    """check: what was tried; ok; what was seen, in a line."""

    check: str
    ok: bool
    seen: str


def suites(device: str) -> Iterator[Finding]:
    """The tests of the hybrid runtime and of its kernels, on the device."""
    second = f",cuda:{torch.cuda.device_count() - 1}" if torch.cuda.device_count() > 1 else ""
    environment = os.environ | {"POWERINFER_TEST_DEVICE": device + second}
    paths = [
        "tests/kernels/device/triton_cases.py",
        "tests/kernels/device/triton_attention_cases.py",
        "tests/kernels/device/triton_recurrent_cases.py",
        "tests/runtime/hybrid/test_hybrid.py",
        "tests/runtime/hybrid/test_sequences_placed.py",
    ]
    if torch.device(device).type == "cuda":
        # Interpreted, a token takes seconds.
        names = "experts_placed", "adaptive", "cache_overflow", "shared_keys_placed", "states_placed", "replays"
        paths += [f"tests/runtime/hybrid/test_{name}.py" for name in names]
    else:
        environment["TRITON_INTERPRET"] = "1"
    for path in paths:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=600", path]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()
        yield Finding(path, done.returncode == 0, lines[-1])


def equality(case: Case) -> Iterator[Finding]:
    """A model of F32 against itself on the CPU: logits of a batch and token by token, and what it writes."""
    ids = tokens(case, 48)
    wanted, written = _run(case.load(None), ids)
    top = case.sizes.total
    for share in SHARES:
        plan = plan_for(case, [round(top * share * 1.02)])
        found, text = _run(case.load(plan), ids)
        difference = float(np.abs(found - wanted).max())
        ok = difference <= TOLERANCE * max(1.0, float(wanted.std())) and text == written
        hot = sum(plan.hot_counts) / sum(case.config.n_ff)
        yield Finding(
            f"{case.name}: {share:.0%} of its bytes as budget",
            ok,
            f"{hot:.0%} hot, largest difference {difference:.1e}, same tokens: {text == written}",
        )


def budgets(case: Case) -> Iterator[Finding]:
    """The allocator's peak, through loading, a long prompt and decoding, is within ten budgets."""
    device = torch.device(case.devices[0])
    for share in TEN:
        budget = _budget(case, share)
        plan = plan_for(case, [budget])
        _free(device)
        engine = case.load(plan)
        engine.prefill(tokens(case, case.options.n_ctx - 16))
        for token in tokens(case, 8):
            engine.decode(token)
        peak, kept = _peak(device)
        del engine
        seen = f"peak {peak / 2**20:.0f} MiB in tensors, {kept / 2**20:.0f} MiB kept by the allocator"
        if device.type != "cuda":
            seen = "not measured: no allocator of a GPU"
        hot = f"{sum(plan.hot_counts)} hot neurons"
        yield Finding(f"{case.name}: budget of {budget / 2**20:.1f} MiB", max(peak, kept) <= budget, f"{seen}, {hot}")


def waits(case: Case) -> Iterator[Finding]:
    """A token waits once for each divided layer, and once for its logits; nothing else makes the CPU wait."""
    for share in (0.3, 0.6, 1.0):
        plan = plan_for(case, [_budget(case, share)])
        engine = case.load(plan)
        engine.prefill(tokens(case, 8))
        engine.decode(1)
        backend = engine._backend
        if not isinstance(backend, HybridBackend):
            yield Finding(f"{case.name}: {share:.0%}", True, "nothing on the device")
            continue
        before = backend.waits
        with _no_other_synchronisation(torch.device(case.devices[0])):
            engine.decode(2)
        seen, wanted = backend.waits - before, _allowed(plan, max(case.config.n_ff))
        yield Finding(f"{case.name}: {share:.0%} of it on the device", seen <= wanted, f"{seen} waits of {wanted}")


def _budget(case: Case, share: float) -> int:
    """Bytes, from one layer without neurons (0) to everything (1)."""
    least = case.sizes.scratch + case.sizes.head + min(layer.fixed for layer in case.sizes.layers)
    return round(least + share * (1.01 * case.sizes.total - least))


def _allowed(plan: Plan, n_ff: int) -> int:
    divided = sum(placed.device >= 0 and placed.hot.size < n_ff for placed in plan.layers)
    way = [*(placed.device for placed in plan.layers), plan.output]
    moves = sum(a >= 0 > b for a, b in pairwise(way))  # the residual stream comes back to main memory
    return divided + moves + len(plan.gpus)


def _run(engine: Engine, ids: list[int]) -> tuple[np.ndarray, list[int]]:
    half = len(ids) // 2
    rows = [engine.logits(ids[:half]), *(engine.decode(token)[None] for token in ids[half:])]
    token, written = int(rows[-1].argmax()), []
    for _ in range(GREEDY):
        written.append(token)
        token = int(engine.decode(token).argmax())
    return np.concatenate(rows), written


@contextmanager
def _no_other_synchronisation(device: torch.device) -> Iterator[None]:
    """On CUDA: what makes the CPU wait without saying so is an error. (Waiting for an event says so.)"""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
