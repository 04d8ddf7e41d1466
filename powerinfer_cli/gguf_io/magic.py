"""The first eight bytes: is this a GGUF file, and one that we read?"""

from .cursor import Cursor

__all__ = ["check_magic", "check_version"]

DENSE = b"GGUF"
SPARSE = b"PWRI"
KNOWN_VERSIONS = (2, 3)
LONGEST_SAFETENSORS_HEADER = 100_000_000

_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"lmgg", "a GGML file of 2023"),
    (b"fmgg", "a GGMF file of 2023"),
    (b"tjgg", "a GGJT file of 2023"),
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint"),
    (b"\x80", "a pickle, perhaps a PyTorch checkpoint"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for"),
    (b"<", "a web page, not the file that was to be downloaded"),
)


def check_magic(cursor: Cursor) -> bool:
    """Pass the magic; is it that of a sparse file?"""
    magic = cursor.take(4, "the magic")
    if magic in (DENSE, SPARSE):
        return magic == SPARSE
    head = cursor.buffer[:32]
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < LONGEST_SAFETENSORS_HEADER:
        raise cursor.error("this is a safetensors file, not GGUF: convert it first", 0)
    for start, name in _OTHER_FORMATS:
        if head.startswith(start):
            raise cursor.error(f"not a GGUF file: it looks like {name}", 0)
    raise cursor.error(f"not a GGUF file: it starts with {magic!r}, not with b'GGUF' or b'PWRI'", 0)


def check_version(cursor: Cursor) -> int:
    start = cursor.pos
    version = cursor.u32("the version")
    if version in KNOWN_VERSIONS:
        return version
    if version and version & 0xFFFF == 0:
        raise cursor.error("this is a big-endian GGUF file; only little-endian ones can be read", start)
    if version == 1:
        raise cursor.error("this is GGUF version 1, which is no longer in use: convert the model anew", start)
    raise cursor.error(f"this is GGUF version {version}; versions 2 and 3 can be read", start)
