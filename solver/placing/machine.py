"""This machine's device profile: its CPU and its GPUs, measured."""

import gc
from collections.abc import Callable, Sequence

import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.runtime.device.memory import is_full
from solver.placing.device_profile import DeviceProfile, Link, Processor
from solver.placing.measure import USUAL, CostShape, measure_cpu
from solver.placing.measure_experts import cpu_with_experts
from solver.placing.measure_gpu import measure_gpu, measure_link

__all__ = ["measure_machine"]

NO_LINK = Link(bandwidth=1e10, synchronisation=0.0)  # of a machine that has no GPU to hand anything to


def measure_machine(
    devices: Sequence[str] = (),
    kinds: Sequence[GGMLType] = (GGMLType.Q4_0,),
    shape: CostShape = USUAL,
    *,
    budgets: Sequence[int] = (),
    threads: int | None = None,
    cores: Sequence[frozenset[int]] = (),
    on_step: Callable[[str], None] | None = None,
) -> DeviceProfile:
    """Time the CPU and these devices ("cuda:0", "mps", or "cpu" to rehearse), some seconds in all.

    kinds: weight types, the first for all others. shape: of the model. budgets: bytes by device; no more are taken
    while measuring, and none of them are kept. The slowest way to a device stands for all.
    Raises PowerInferError: too little memory.
    """
    try:
        cpu = measure_cpu(kinds, shape, threads, cores, on_step)
        cpu = cpu_with_experts(cpu, kinds, shape, threads, cores, on_step)
        gpus, links = [], [NO_LINK]
        for index, name in enumerate(devices):
            gpu, link = _device(torch.device(name), kinds, shape, budgets[index] if budgets else None, on_step)
            gpus.append(gpu)
            links.append(link)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or is_full(error)):
            raise
        raise PowerInferError(
            "no memory to measure this machine: close other programs, or give --device-profile"
        ) from error
    link = Link(
        bandwidth=min(link.bandwidth for link in links[1:] or links),
        synchronisation=max(link.synchronisation for link in links),
        rehearsed=any(link.rehearsed for link in links),
        unified=any(link.unified for link in links),
    )
    return DeviceProfile("measured", "Measured on this machine.", cpu, tuple(gpus), link)


def _device(
    device: torch.device,
    kinds: Sequence[GGMLType],
    shape: CostShape,
    budget: int | None,
    on_step: Callable[[str], None] | None,
) -> tuple[Processor, Link]:
    try:
        gpu = measure_gpu(device, kinds, shape.n_embd, budget, on_step, shape)
        return gpu, measure_link(device, shape.n_embd)
    finally:
        gc.collect()  # what was measured refers to itself
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        elif device.type == "mps":
            torch.mps.empty_cache()
