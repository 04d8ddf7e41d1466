"""`powerinfer solve` by the name and flags of existing guides; from any directory, with nothing installed.

python solver/solve.py --model M --output DIR --target-gpu-layers N --gpu-memory-gb G
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    # This folder's own names (profile, for one) hide those of the standard library; the program is one up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.argv[1:1] = ["solve"]
    runpy.run_module("powerinfer_cli", run_name="__main__", alter_sys=True)
