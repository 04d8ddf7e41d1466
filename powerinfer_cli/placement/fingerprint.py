"""A fingerprint of a model and of its statistics: says whether a plan or a predictor was made for them."""

import hashlib
import struct

import numpy as np

from powerinfer_cli.gguf_io import GGUFFile, Tensor
from powerinfer_cli.placement.statistics import ActivationStatistics

__all__ = ["model_fingerprint", "statistics_fingerprint"]

SAMPLE = 64  # bytes at each place that is looked at
PLACES = 3  # in each tensor: where it begins, in the middle, where it ends
DIGEST = 16  # bytes
# Names, licences and vocabularies do not change what a neuron does.
IDLE_KEYS = ("general.", "tokenizer.", "split.", "GGUF.")


def model_fingerprint(gguf: GGUFFile) -> str:
    """32 hexadecimal digits from the kind of file, its numbers, and each tensor's name, type, shape and some bytes.

    Where the file lies, what it is called and how it is cut into parts change nothing. Reads a few pages of each
    tensor.
    """
    digest = hashlib.blake2b(digest_size=DIGEST)
    digest.update(b"sparse" if gguf.sparse else b"dense")
    for key, value in sorted(gguf.metadata.items()):
        if not key.startswith(IDLE_KEYS) or key == "general.architecture":
            shown = value.tolist() if isinstance(value, np.ndarray) else value
            digest.update(f"{key}={shown!r}\n".encode(errors="replace"))
    for name in sorted(gguf.tensors):
        _add(digest, gguf.tensors[name])
    return digest.hexdigest()


def _add(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    digest.update(f"{tensor.name}:{tensor.type.name}:{tensor.shape}\n".encode(errors="replace"))
    last = max(0, tensor.nbytes - SAMPLE)
    for place in sorted({last * i // (PLACES - 1) for i in range(PLACES)}):
        digest.update(tensor.data[place : place + SAMPLE].tobytes())


def statistics_fingerprint(statistics: ActivationStatistics) -> str:
    """32 hexadecimal digits from all counts."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for counts in statistics.counts:
        digest.update(struct.pack("<Q", counts.size))
        digest.update(np.ascontiguousarray(counts, "<f8").tobytes())
    return digest.hexdigest()
