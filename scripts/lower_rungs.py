"""The names of the instruction sets below this CPU's best, as POWERINFER_CPU takes them."""

import llvmlite.binding

from powerinfer_cli.kernels.jit.rung import possible_rungs

if __name__ == "__main__":
    print(*possible_rungs(dict(llvmlite.binding.get_host_cpu_features()))[1:])
