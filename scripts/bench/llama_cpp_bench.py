"""llama.cpp's speed, as llama-bench measures it: model time only, random tokens. Needs llama-cpp-python, not us.

Usage: python llama_cpp_bench.py MODEL.gguf N_PROMPT N_GEN N_DEPTH THREADS REPETITIONS [MAPPED] > result.json

MAPPED 1: weights stay in the mapped file as they are, for files larger than memory. (So N_DEPTH is read one by one.)
"""

import ctypes
import json
import random
import sys
import time
from typing import Any

import llama_cpp


def load(path: str, n_ctx: int, threads: int, *, mapped: bool = False) -> tuple[Any, int]:
    """A context of the model with llama.cpp's defaults, and the size of the vocabulary."""
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    how = llama_cpp.llama_model_default_params()
    how.use_extra_bufts = not mapped
    model = llama_cpp.llama_model_load_from_file(path.encode(), how)
    if not model:
        sys.exit(f"error: llama.cpp cannot open {path}")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = n_ctx
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        sys.exit(f"error: llama.cpp has no memory for a context of {n_ctx}")
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    context_and_callback = (context, quiet)  # the callback must live as long as the context
    return context_and_callback, n_vocab


def decode(context: Any, ids: list[int], batch: int) -> None:
    """Evaluate tokens behind the context, so many at a time."""
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        tokens = (llama_cpp.llama_token * len(part))(*part)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(part))):
            sys.exit("error: llama_decode failed")
        llama_cpp.llama_synchronize(context)


def main(path: str, n_prompt: int, n_gen: int, n_depth: int, threads: int, repetitions: int, mapped: int = 0) -> None:
    """Measure, and print the samples."""
    (context, _), n_vocab = load(path, n_prompt + n_gen + n_depth, threads, mapped=bool(mapped))
    memory = llama_cpp.llama_get_memory(context)
    batch = llama_cpp.llama_n_batch(context)
    rng = random.Random(0)
    depth, prompt, generated = ([rng.randrange(n_vocab) for _ in range(n)] for n in (n_depth, n_prompt, n_gen))
    decode(context, prompt, batch)  # warm-up, as llama-bench's
    decode(context, generated[:1], 1)
    llama_cpp.llama_memory_clear(memory, False)
    decode(context, depth, 1 if mapped else batch)
    samples = []
    for _ in range(repetitions):
        if not llama_cpp.llama_memory_seq_rm(memory, 0, n_depth, -1):  # states cannot be cut back
            llama_cpp.llama_memory_clear(memory, False)
            decode(context, depth, batch)
        start = time.perf_counter_ns()
        decode(context, prompt, batch)
        decode(context, generated, 1)
        samples.append(time.perf_counter_ns() - start)
    json.dump({"samples_ts": [1e9 * (n_prompt + n_gen) / ns for ns in samples]}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], *(int(text) for text in sys.argv[2:]))
