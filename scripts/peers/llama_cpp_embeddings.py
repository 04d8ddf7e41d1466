"""llama.cpp's vectors of texts, pooled by mean. Needs llama-cpp-python, nothing of ours.

Usage: python scripts/peers/llama_cpp_embeddings.py MODEL.gguf IDS.npy THREADS TOKENS VECTORS.npy CLOCK

IDS [texts, tokens], TOKENS: of a step, of as many whole texts as go in. Vectors [texts, n_embd] go to the file, seconds
to stdout: of the processor where CLOCK is "process".
"""

import ctypes
import sys
import time
from typing import Any

import llama_cpp
import numpy as np


def main(path: str, ids: np.ndarray, threads: int, tokens: int, target: str, clock: str) -> None:
    """Write the vectors, print the seconds."""
    keep = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"{path}: llama.cpp does not open it")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = tokens
    parameters.n_seq_max = max(1, tokens // ids.shape[1])
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.embeddings, parameters.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_MEAN
    context = llama_cpp.llama_init_from_model(model, parameters)
    n_embd = llama_cpp.llama_model_n_embd(model)
    step(context, ids[:4], n_embd)  # memory is touched
    now = time.process_time if clock == "process" else time.perf_counter
    begin = now()
    found = np.concatenate([step(context, part, n_embd) for part in parts(ids, parameters.n_seq_max)])
    seconds = now() - begin
    np.save(target, found)
    print(seconds)


def parts(ids: np.ndarray, n: int) -> list[np.ndarray]:
    """Texts of a step."""
    return [ids[at : at + n] for at in range(0, len(ids), n)]


def step(context: Any, ids: np.ndarray, n_embd: int) -> np.ndarray:
    """[texts, n_embd]"""
    batch = llama_cpp.llama_batch_init(ids.size, 0, 1)
    batch.n_tokens = ids.size
    for i, (text, place) in enumerate(np.ndindex(*ids.shape)):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(ids[text, place]), place, 1, 1
        batch.seq_id[i][0] = text
    if llama_cpp.llama_encode(context, batch):
        sys.exit("llama.cpp cannot compute it")
    vectors = [llama_cpp.llama_get_embeddings_seq(context, i) for i in range(len(ids))]
    found = np.stack([np.ctypeslib.as_array(one, (n_embd,)).copy() for one in vectors])
    llama_cpp.llama_batch_free(batch)
    return found


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit("usage: llama_cpp_embeddings.py MODEL.gguf IDS.npy THREADS TOKENS VECTORS.npy CLOCK")
    model_path, ids_path, n_threads, n_tokens, vectors_path, kind = sys.argv[1:]
    main(model_path, np.load(ids_path), int(n_threads), int(n_tokens), vectors_path, kind)
