"""How long `powerinfer --help` takes, as a new process: wall clock and processor time.

Usage: python scripts/bench/help.py
"""

import resource
import subprocess
import sys
import time

REPEATS = 10


def main() -> None:
    """Print the shortest of several runs; the first one may have to compile the package's files."""
    walls, processors = [], []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "powerinfer_cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"powerinfer --help: {min(walls):.3f} s, of which {min(processors):.3f} s on the processor")


if __name__ == "__main__":
    main()
