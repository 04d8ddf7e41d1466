"""A GGUF file quantised by llama.cpp itself, to compare with. Needs llama-cpp-python, nothing of ours.

Usage: python scripts/peers/llama_cpp_quantize.py IN.gguf OUT.gguf NUMBER [--imatrix IMPORTANCE.npz] [--pure]

NUMBER: of the file type (llama_ftype). IMPORTANCE.npz: by tensor's name, float32 [experts * columns].
"""

import argparse
import ctypes

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback
def quiet(level: int, text: bytes, data: object) -> None:
    """llama.cpp tells of every tensor."""


def main() -> int:
    """0 where it was written."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("number", type=int)
    parser.add_argument("--imatrix")
    parser.add_argument("--pure", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure, params.allow_requantize = args.number, args.threads, args.pure, True
    if args.imatrix:
        arrays = {
            name: np.ascontiguousarray(one, np.float32).reshape(-1) for name, one in np.load(args.imatrix).items()
        }
        pointer = ctypes.POINTER(ctypes.c_float)
        kind = llama_cpp.llama_model_imatrix_data
        rows = [kind(name.encode(), one.ctypes.data_as(pointer), one.size) for name, one in arrays.items()]
        params.imatrix = (kind * (len(rows) + 1))(*rows)  # one of nothing behind the last
    return int(llama_cpp.llama_model_quantize(args.source.encode(), args.target.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    raise SystemExit(main())
