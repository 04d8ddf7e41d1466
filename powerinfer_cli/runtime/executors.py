"""Who does an engine's arithmetic."""

from typing import Protocol

from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime.backend import Backend, Parts

__all__ = ["Executor", "backend_of"]


class Executor(Protocol):
    """Who does it elsewhere, or partly so. n_ctx: tokens that there is room for, of all sequences together; devices:
    GPUs that hold something, once there is a backend.
    """

    @property
    def n_ctx(self) -> int: ...
    @property
    def devices(self) -> tuple[str, ...]: ...
    def backend(self, parts: Parts) -> Backend: ...


def backend_of(parts: Parts, placement: Placement | None) -> Backend:
    """By the options, or by where a placement has put something; each is imported only when it is needed."""
    if parts.options.reference:
        from powerinfer_cli.runtime.reference.backend import ReferenceBackend

        return ReferenceBackend(parts)
    if placement is not None:
        from powerinfer_cli.runtime.hybrid.backend import HybridBackend

        return HybridBackend(parts, placement)
    from powerinfer_cli.runtime.cpu.backend import CPUBackend

    return CPUBackend(parts)
