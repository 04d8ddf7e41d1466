"""llama.cpp's perplexity of a text, as its own program computes it. Needs llama-cpp-python, nothing of ours.

Usage: python scripts/peers/llama_cpp_perplexity.py MODEL.gguf TEXT N_CTX N_CHUNKS THREADS    prints the perplexity

A chunk of N_CTX tokens begins with BOS where the vocabulary wants one; the tokens of its second half are scored.
"""

import ctypes
import math
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


def main(path: str, text: str, n_ctx: int, n_chunks: int, threads: int) -> None:
    """Print the perplexity."""
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"error: llama.cpp cannot open {path}")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = n_ctx
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, parameters)
    vocab = llama_cpp.llama_model_get_vocab(model)
    ids = tokens_of(vocab, Path(text).read_bytes())
    losses: list[float] = []
    for start in range(0, min(n_chunks, len(ids) // n_ctx) * n_ctx, n_ctx):
        chunk = ids[start : start + n_ctx]
        if llama_cpp.llama_vocab_get_add_bos(vocab):
            chunk[0] = llama_cpp.llama_vocab_bos(vocab)
        losses += chunk_losses(context, chunk, llama_cpp.llama_vocab_n_tokens(vocab))
    print(math.exp(sum(losses) / len(losses)))


def tokens_of(vocab: Any, text: bytes) -> list[int]:
    """The text's ids, BOS first where the vocabulary wants it."""
    room = len(text) + 16
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), ids, room, True, False)
    return list(ids[:count])


def chunk_losses(context: Any, ids: list[int], n_vocab: int) -> list[float]:
    """-log p of each token of the second half."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if llama_cpp.llama_decode(context, batch):
        sys.exit("error: llama_decode failed")
    losses = []
    for i in range(len(ids) // 2, len(ids) - 1):
        pointer = llama_cpp.llama_get_logits_ith(context, i)
        logits = np.ctypeslib.as_array(pointer, (n_vocab,)).astype(np.float64)
        losses.append(float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[i + 1]]))
    llama_cpp.llama_batch_free(batch)
    return losses


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:]))
