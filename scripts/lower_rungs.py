"""The names of the instruction sets below this CPU's best that scripts/test tries, as POWERINFER_CPU takes them.

Not AVX-VNNI on a CPU with AVX-512, whose products and widths the others have: it takes a minute more.
"""

from powerinfer_cli.kernels.jit.rung import Rung, cpu_features, possible_rungs

if __name__ == "__main__":
    best, *lower = possible_rungs(cpu_features())
    print(*(rung for rung in lower if (best, rung) != (Rung.VNNI, Rung.AVX_VNNI)))
