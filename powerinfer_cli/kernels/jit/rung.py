"""Which instructions kernels use: chosen once, before anything is compiled."""

import os
import platform
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

import llvmlite.binding

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.system.cpu import has_arm_dot_products, has_arm_matrix_products, has_arm_vectors

__all__ = [
    "HOST_CPU",
    "RUNG",
    "RUNG_REASON",
    "TARGET_CPU",
    "Products",
    "Rung",
    "TargetCPU",
    "choose_rung",
    "cpu_features",
    "possible_rungs",
]

VARIABLE = "POWERINFER_CPU"
_ARM = ("aarch64", "arm64", "ARM64")


class Products(Enum):
    """How four bytes of weights and four of an input become a sum of 32 bits."""

    UNSIGNED = auto()
    """One step; weights are unsigned, any of 256."""
    SIGNED = auto()
    """One step; weights are signed."""
    PAIRS = auto()
    """Two products are added in 16 bits first, which would overflow if weights were large."""


class Rung(StrEnum):
    """Instruction sets, best first. `any` is plain LLVM vectors."""

    VNNI = "vnni"
    AVX_VNNI = "avxvnni"
    AVX2 = "avx2"
    I8MM = "i8mm"
    NEON = "neon"
    ANY = "any"

    @property
    def label(self) -> str:
        """For people."""
        return _FACTS[self].label

    @property
    def products(self) -> Products:
        return _FACTS[self].products

    @property
    def is_arm(self) -> bool:
        """Whether its vectors are NEON's."""
        return self in (Rung.I8MM, Rung.NEON)

    @property
    def has_half(self) -> bool:
        """Whether float16 is converted by instructions."""
        return self is not Rung.ANY


@dataclass(frozen=True)
class _Facts:
    label: str
    products: Products
    needs: tuple[tuple[str, ...], ...]
    """Features of a CPU, by LLVM's names: one of these sets."""


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni")
_FACTS = {
    Rung.VNNI: _Facts("AVX-512 VNNI", Products.UNSIGNED, (_AVX512,)),
    # A CPU with AVX-512 has the same instruction in another encoding.
    Rung.AVX_VNNI: _Facts("AVX-VNNI", Products.UNSIGNED, ((*_AVX2, "avxvnni"), (*_AVX2, *_AVX512))),
    Rung.AVX2: _Facts("AVX2", Products.PAIRS, (_AVX2,)),
    Rung.I8MM: _Facts("NEON with matrix products", Products.SIGNED, (("neon", "dotprod", "i8mm"),)),
    Rung.NEON: _Facts("NEON with dot products", Products.SIGNED, (("neon", "dotprod"),)),
    Rung.ANY: _Facts("no instructions for products of bytes that are known here", Products.PAIRS, ((),)),
}


@dataclass(frozen=True)
class TargetCPU:
    """What LLVM is to compile for, by its own names."""

    name: str
    features: str = ""


def possible_rungs(features: dict[str, bool]) -> list[Rung]:
    """Those that a CPU of these features has, best first."""
    return [rung for rung, facts in _FACTS.items() if any(all(map(features.get, needs)) for needs in facts.needs)]


def choose_rung(features: dict[str, bool], forced: str | None) -> tuple[Rung, str]:
    """The best rung that the CPU has, or the one asked for; and why, in words to print.

    Raises:
        PowerInferError: `forced` is no rung, in whatever case, or one that this CPU does not have.
    """
    possible = possible_rungs(features)
    if not forced:
        return possible[0], f"the CPU has {possible[0].label}"
    wanted = forced.strip().lower()
    if wanted not in possible:
        reason = "not what this CPU has" if wanted in list(Rung) else "unknown"
        raise PowerInferError(f"{VARIABLE}={forced[:20]}: {reason}; choose {', '.join(possible)}")
    return Rung(wanted), f"{VARIABLE}={wanted}"


def cpu_features() -> dict[str, bool]:
    """This CPU's, by LLVM's names, which tells nothing of ARM's products of bytes, nor of Apple's CPUs at all."""
    features = dict(llvmlite.binding.get_host_cpu_features())
    if platform.machine() not in _ARM:
        return features
    neon = features.get("neon", False) or has_arm_vectors()
    return features | {"neon": neon, "dotprod": has_arm_dot_products(), "i8mm": has_arm_matrix_products()}


def _chosen() -> tuple[Rung, str, TargetCPU | None]:
    """The rung, why, and which CPU is compiled for, where that is not what LLVM makes of this one."""
    features = cpu_features()
    rung, reason = choose_rung(features, os.environ.get(VARIABLE))
    return rung, reason, _target_cpu(rung, features)


def _target_cpu(rung: Rung, features: dict[str, bool]) -> TargetCPU | None:
    """Below the CPU's best rung one that has no more, or LLVM would use better instructions wherever it can."""
    if rung.is_arm:
        known = llvmlite.binding.get_host_cpu_features().flatten()
        more = "+neon,+dotprod,+i8mm" if rung is Rung.I8MM else "+neon,+dotprod"
        return TargetCPU(llvmlite.binding.get_host_cpu_name(), ",".join(filter(None, (known, more))))
    if rung is possible_rungs(features)[0]:
        return None
    if platform.machine() in _ARM:
        return TargetCPU("generic")
    if rung is Rung.AVX_VNNI:
        vnni = "+avxvnni" if features.get("avxvnni") else "+avx512vl,+avx512vnni,+prefer-256-bit"
        return TargetCPU("haswell", vnni)
    return TargetCPU("haswell" if rung is Rung.AVX2 else "x86-64")


RUNG, RUNG_REASON, TARGET_CPU = _chosen()
HOST_CPU = llvmlite.binding.get_host_cpu_name()  # LLVM's word for this one, whatever the rung
