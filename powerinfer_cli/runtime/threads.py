"""How many threads to run, and on which cores."""

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.system.cores import PINS, current_core, memory_nodes, physical_cores, usable_cores

__all__ = ["default_threads", "numa_cores", "parse_cpu_mask", "parse_cpu_range"]


def default_threads(cores: tuple[frozenset[int], ...] = ()) -> int:
    """One thread per physical core that may be used."""
    return physical_cores(frozenset().union(*cores) if cores else usable_cores())


def parse_cpu_mask(text: str) -> frozenset[int]:
    """The cores whose bits are set in a hexadecimal mask, as 0xF or f. Raises UsageError."""
    try:
        mask = int(text, 16)
    except ValueError:
        mask = 0
    if mask <= 0 or mask.bit_length() > 4096:
        raise UsageError(f"--cpu-mask {text[:40]}: not a hexadecimal mask with a core in it, as ff or 0x3")
    return _available(frozenset(i for i in range(mask.bit_length()) if mask >> i & 1), f"--cpu-mask {text}")


def parse_cpu_range(text: str) -> frozenset[int]:
    """The cores of a range as 0-3; a missing end is the first or the last core. Raises UsageError."""
    low, dash, high = text.partition("-")
    try:
        first = int(low) if low else 0
        last = int(high) if high else max(usable_cores())
    except ValueError:
        first, last = 1, 0
    if not dash or not 0 <= first <= last < 4096:
        raise UsageError(f"--cpu-range {text[:40]}: not a range of cores, as 0-3")
    return _available(frozenset(range(first, last + 1)), f"--cpu-range {text}")


def _available(cores: frozenset[int], said: str) -> frozenset[int]:
    if not PINS:
        raise PowerInferError(f"{said}: this system lets nobody choose the cores of a thread")
    missing = sorted(cores - usable_cores())
    if missing:
        raise PowerInferError(f"{said}: core {missing[0]} is not there, or not for this process")
    return cores


def numa_cores(mode: str) -> tuple[frozenset[int], ...]:
    """Where threads run, in turn: `distribute` takes all nodes, `isolate` the one where the process is.

    Empty on a machine of one node, where there is nothing to choose. Raises UsageError: another mode.
    """
    if mode not in ("distribute", "isolate", "numactl"):
        raise UsageError(f"--numa {mode[:20]}: must be distribute, isolate or numactl")
    nodes = memory_nodes()
    if mode == "numactl" or len(nodes) < 2:
        return ()
    if mode == "distribute":
        return tuple(nodes)
    here = current_core()
    return (next((node for node in nodes if here in node), nodes[0]),)
