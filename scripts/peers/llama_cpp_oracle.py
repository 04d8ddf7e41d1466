"""llama.cpp's own answers about a vocabulary, for recording and comparing. Needs llama-cpp-python, nothing of ours.

Usage: python scripts/peers/llama_cpp_oracle.py VOCABULARY.gguf < request.json > answer.json

Request:  {"texts": [hex, ...], "add_special": bool, "parse_special": bool, "decode": [[id, ...], ...]}
Answer:   {"ids": [[id, ...], ...], "texts": [hex, ...] (of decode, special tokens shown), "pieces": [hex, ...],
           "eog": [id, ...], "bos": id, "eos": id, "add_bos": bool, "add_eos": bool}
"""

import ctypes
import json
import sys
from typing import Any

import llama_cpp


def tokenize(vocab: Any, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
    """Ids of `text`."""
    room = len(text) * 2 + 16
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), ids, room, add_special, parse_special)
    return list(ids[:count])


def detokenize(vocab: Any, ids: list[int]) -> bytes:
    """The text of `ids`, as llama.cpp's common_detokenize."""
    room = 64 * len(ids) + 1024
    buffer = ctypes.create_string_buffer(room)
    tokens = (llama_cpp.llama_token * len(ids))(*ids)
    count = llama_cpp.llama_detokenize(vocab, tokens, len(ids), buffer, room, False, True)
    return buffer.raw[:count]


def piece(vocab: Any, id_: int) -> bytes:
    """The bytes of one token, special ones shown."""
    buffer = ctypes.create_string_buffer(4096)
    count = llama_cpp.llama_token_to_piece(vocab, id_, buffer, 4096, 0, True)
    return buffer.raw[:count]


def main(path: str) -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        sys.exit(f"llama.cpp cannot open {path}")
    vocab = llama_cpp.llama_model_get_vocab(model)
    count = llama_cpp.llama_vocab_n_tokens(vocab)
    flags = (request["add_special"], request["parse_special"])
    answer = {
        "ids": [tokenize(vocab, bytes.fromhex(text), *flags) for text in request["texts"]],
        "texts": [detokenize(vocab, ids).hex() for ids in request["decode"]],
        "pieces": [piece(vocab, i).hex() for i in range(count)],
        "eog": [i for i in range(count) if llama_cpp.llama_vocab_is_eog(vocab, i)],
        "bos": llama_cpp.llama_vocab_bos(vocab),
        "eos": llama_cpp.llama_vocab_eos(vocab),
        "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
        "add_eos": bool(llama_cpp.llama_vocab_get_add_eos(vocab)),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: llama_cpp_oracle.py VOCABULARY.gguf < request.json")
    main(sys.argv[1])
