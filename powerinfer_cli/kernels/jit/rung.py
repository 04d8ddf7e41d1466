"""Which instructions kernels use: chosen once, before anything is compiled."""

import os
import platform
from enum import StrEnum

import llvmlite.binding

from powerinfer_cli.errors import PowerInferError

__all__ = ["LOWER_CPU", "RUNG", "RUNG_REASON", "Rung", "choose_rung", "possible_rungs"]

VARIABLE = "POWERINFER_CPU"


class Rung(StrEnum):
    """Instruction sets, best first. `any` is plain LLVM vectors."""

    VNNI = "vnni"
    AVX2 = "avx2"
    ANY = "any"

    @property
    def label(self) -> str:
        """For people."""
        return _NAMES[self]


_NEEDS = {
    Rung.VNNI: ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"),
    Rung.AVX2: ("avx2", "fma", "f16c"),
    Rung.ANY: (),
}
_NAMES = {Rung.VNNI: "AVX-512 VNNI", Rung.AVX2: "AVX2", Rung.ANY: "neither AVX-512 VNNI nor AVX2"}
# For a rung below the CPU's best: a CPU that has no more, or LLVM would use the better instructions wherever it can.
_LOWER_CPUS = {Rung.AVX2: "haswell", Rung.ANY: "x86-64"}


def possible_rungs(features: dict[str, bool]) -> list[Rung]:
    """Those that a CPU of these features has, best first."""
    return [rung for rung, needs in _NEEDS.items() if all(features.get(f) for f in needs)]


def choose_rung(features: dict[str, bool], forced: str | None) -> tuple[Rung, str]:
    """The best rung that the CPU has, or the one asked for; and why, in words to print.

    Raises:
        PowerInferError: `forced` is no rung, in whatever case, or one that this CPU does not have.
    """
    possible = possible_rungs(features)
    if not forced:
        return possible[0], f"the CPU has {_NAMES[possible[0]]}"
    wanted = forced.strip().lower()
    if wanted not in possible:
        reason = "not what this CPU has" if wanted in list(Rung) else "unknown"
        raise PowerInferError(f"{VARIABLE}={forced[:20]}: {reason}; choose {', '.join(possible)}")
    return Rung(wanted), f"{VARIABLE}={wanted}"


def _chosen() -> tuple[Rung, str, str | None]:
    """The rung, why, and which CPU is compiled for, by LLVM's name, where it is less than this one."""
    features = dict(llvmlite.binding.get_host_cpu_features())
    rung, reason = choose_rung(features, os.environ.get(VARIABLE))
    lower = rung is not choose_rung(features, None)[0] and platform.machine() in ("x86_64", "AMD64")
    return rung, reason, _LOWER_CPUS[rung] if lower else None


RUNG, RUNG_REASON, LOWER_CPU = _chosen()
