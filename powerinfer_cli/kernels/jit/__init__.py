"""How kernels are declared, compiled by Numba, kept on the disk, and loaded without it.

A kernel is a function over addresses, compiled on first use and read from the disk from then on. Kernels are called
through their addresses, by each other and by `team`, so that only what a model needs is ever compiled.
"""

from powerinfer_cli.kernels.jit import types
from powerinfer_cli.kernels.jit.deferred import deferring, exact_helper, helper
from powerinfer_cli.kernels.jit.files import cache_folder, not_kept
from powerinfer_cli.kernels.jit.kernels import Kernel, declared, family, kernel, prepare
from powerinfer_cli.kernels.jit.rung import HOST_CPU, RUNG, RUNG_REASON, Products, Rung

__all__ = [
    "HOST_CPU",
    "RUNG",
    "RUNG_REASON",
    "Kernel",
    "Products",
    "Rung",
    "cache_folder",
    "declared",
    "deferring",
    "exact_helper",
    "family",
    "helper",
    "kernel",
    "not_kept",
    "prepare",
    "types",
]
