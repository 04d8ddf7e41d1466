"""The devices of tests with placed models, and what an engine on them has done there."""

import os

from powerinfer_cli.runtime import Engine
from powerinfer_cli.runtime.hybrid.backend import HybridBackend

__all__ = ["DEVICES", "backend_of", "waits_of"]

NAMED = os.environ.get("POWERINFER_TEST_DEVICE", "cpu").split(",")  # scripts/gpu_check names one GPU, or two
DEVICES = (NAMED[0], NAMED[-1])


def backend_of(engine: Engine) -> HybridBackend:
    """Of an engine with a placement."""
    backend = engine._backend
    assert isinstance(backend, HybridBackend)
    return backend


def waits_of(engine: Engine) -> int:
    """How often the CPU has waited for a device so far."""
    return backend_of(engine).waits
