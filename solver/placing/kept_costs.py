"""The costs of the machine that this runs on: measured once, and kept while its processors and the question stay."""

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.formats.convert import conversion
from powerinfer_cli.runtime.device.memory import device_name
from powerinfer_cli.system.cpu import processor_name
from solver.placing.device_profile import DeviceProfile, load_profile, save_profile
from solver.placing.machine import measure_machine
from solver.placing.measure import PREDICTOR, CostShape

__all__ = ["machine_name", "this_machine"]

VERSION = 9  # of what is measured


def this_machine(
    devices: Sequence[str],
    kinds: Sequence[GGMLType],
    shape: CostShape,
    kept: Path,
    *,
    budgets: Sequence[int] = (),
    threads: int | None = None,
    cores: Sequence[frozenset[int]] = (),
    anew: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> DeviceProfile:
    """Costs of this CPU and of these devices for weights of types, the first that of most, and a model's sizes: some
    seconds, unless they lie in the folder `kept`.

    anew: what lies there is replaced. Its note names the processors. Raises PowerInferError: too little memory.
    """
    packed = list(dict.fromkeys(kind if kind in FORMATS else conversion(kind) for kind in kinds))
    rows = [PREDICTOR, *packed, *([shape.down] if shape.down else [])]
    width = shape.n_embd + -shape.n_embd % max(BLOCK[kind][0] for kind in rows)
    machine = machine_name(devices)
    names = " ".join(kind.name for kind in packed)
    asked = f"{VERSION}, {machine}, {names}, {shape}, {threads}, {sorted(map(sorted, cores))}"
    path = kept / f"{hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()}.json"
    if not anew:
        try:
            return load_profile(str(path))
        except PowerInferError:
            pass  # not measured yet, or damaged: either way it is measured now
    wide = replace(shape, n_embd=width)
    measured = measure_machine(devices, packed, wide, budgets=budgets, threads=threads, cores=cores, on_step=on_step)
    profile = replace(measured, note=f"Measured: {machine}")
    try:
        kept.mkdir(parents=True, exist_ok=True)
        save_profile(path, profile)
    except (OSError, PowerInferError):
        pass  # a cache that cannot be written costs time only
    return profile


def machine_name(devices: Sequence[str]) -> str:
    """What tells one machine's costs from another's, in words."""
    cpu = processor_name() or platform.processor() or platform.machine()
    return ", ".join([cpu, *(device_name(torch.device(device)) for device in devices)])
