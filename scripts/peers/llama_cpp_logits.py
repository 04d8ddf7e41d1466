"""llama.cpp's logits of tokens, everything in float32. Needs llama-cpp-python, nothing of ours.

Usage: python scripts/peers/llama_cpp_logits.py IDS.npy MODEL.gguf LOGITS.npy [MODEL.gguf LOGITS.npy ...]

Each model's logits [tokens, vocabulary] go to the file behind it; where llama.cpp cannot open a model, its last words
go to stdout instead.
"""

import ctypes
import sys
from typing import Any

import llama_cpp
import numpy as np

MARGIN = 48  # positions of context behind the tokens: sizes of contexts choose rope factors


def main(ids: np.ndarray, pairs: list[str]) -> None:
    """Write what is asked for."""
    said: list[str] = []
    keep = llama_cpp.llama_log_callback(lambda _level, text, _data: said.append(text.decode(errors="replace")))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    for path, target in zip(pairs[::2], pairs[1::2], strict=True):
        said.clear()
        found = logits(path, [int(i) for i in ids])
        if found is None:
            print(f"{path}: {''.join(said).strip().splitlines()[-2:]}")
        else:
            np.save(target, found)


def logits(path: str, ids: list[int]) -> np.ndarray | None:
    """Of every token, in one batch."""
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        return None
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = len(ids) + MARGIN, 512, 512
    parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.n_threads = parameters.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, parameters)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if llama_cpp.llama_decode(context, batch):
        return None
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [row(context, i, n_vocab) for i in range(len(ids))]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(rows)


def row(context: Any, i: int, n_vocab: int) -> np.ndarray:
    """A copy of one token's logits."""
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (n_vocab,)).copy()


if __name__ == "__main__":
    if len(sys.argv) < 4 or len(sys.argv) % 2:
        sys.exit("usage: llama_cpp_logits.py IDS.npy MODEL.gguf LOGITS.npy ...")
    main(np.load(sys.argv[1]), sys.argv[2:])
