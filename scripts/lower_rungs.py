"""The names of the instruction sets below this CPU's best, as POWERINFER_CPU takes them."""

from powerinfer_cli.kernels.jit.rung import cpu_features, possible_rungs

if __name__ == "__main__":
    print(*possible_rungs(cpu_features())[1:])
