"""What the processor is called, and what it has that LLVM does not tell."""

from pathlib import Path

from powerinfer_cli.system import macos, windows
from powerinfer_cli.system.which import MACOS, WINDOWS

__all__ = ["has_arm_dot_products", "has_arm_matrix_products", "has_arm_vectors", "processor_name"]

_CPU_INFO = Path("/proc/cpuinfo")
_ARM_DOT_PRODUCTS = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
_ARM_MATRIX_PRODUCTS = 66  # PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE; a Windows before 11 24H2 knows none of that number


def processor_name() -> str | None:
    """None where the system does not tell."""
    if WINDOWS:
        return windows.processor_name()
    if MACOS:
        return macos.sysctl_text("machdep.cpu.brand_string")
    lines = _cpu_info().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def has_arm_vectors() -> bool:
    """Of an ARM CPU of 64 bits: NEON, which macOS and Windows ask of every one."""
    return MACOS or WINDOWS or " asimd" in _cpu_info()


def has_arm_dot_products() -> bool:
    """Of an ARM CPU. Every one that Macs have had has them."""
    return MACOS or (windows.has_feature(_ARM_DOT_PRODUCTS) if WINDOWS else " asimddp" in _cpu_info())


def has_arm_matrix_products() -> bool:
    """Of an ARM CPU: of matrices of bytes (i8mm)."""
    if MACOS:
        return bool(macos.sysctl_number("hw.optional.arm.FEAT_I8MM"))
    return windows.has_feature(_ARM_MATRIX_PRODUCTS) if WINDOWS else " i8mm" in _cpu_info()


def _cpu_info() -> str:
    try:
        return _CPU_INFO.read_text(errors="replace")
    except OSError:
        return ""  # not Linux
