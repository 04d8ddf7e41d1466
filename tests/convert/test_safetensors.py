"""Files in the safetensors format: what the format's own library wrote, and headers that lie."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from powerinfer_cli.convert.checkpoint.safetensors import open_safetensors
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType

KINDS = {torch.float32: GGMLType.F32, torch.float16: GGMLType.F16, torch.bfloat16: GGMLType.BF16}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_library_wrote(kind: torch.dtype, tmp_path: Path) -> None:
    given = {"a": torch.randn(3, 5).to(kind), "b": torch.arange(7).to(kind), "c": torch.tensor(2.5).to(kind)}
    save_file(given, tmp_path / "x.safetensors")
    found = open_safetensors(tmp_path / "x.safetensors")
    assert {name: (tensor.type, tensor.shape) for name, tensor in found.items()} == {
        name: (KINDS[kind], tuple(tensor.shape)) for name, tensor in given.items()
    }
    for name in ("a", "b"):
        np.testing.assert_array_equal(found[name].to_float32(), given[name].float().numpy())


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
def test_every_float_of_eight_bits(kind: torch.dtype, tmp_path: Path) -> None:
    """As torch has them; in a file, each byte by its place."""
    given = torch.arange(256, dtype=torch.uint8).view(kind)
    save_file({"a": given.reshape(16, 16)}, tmp_path / "x.safetensors")
    found = open_safetensors(tmp_path / "x.safetensors")["a"]
    assert (found.type, found.shape) == (GGMLType.F32, (16, 16))
    np.testing.assert_array_equal(found.to_float32().reshape(-1), given.float().numpy())


def _write(path: Path, header: Any, data: bytes = bytes(16), length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def _entry(begin: int, end: int, shape: Any = (4,), kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "length", "words"),
    [
        ({"a": _entry(0, 16)}, 1 << 40, "cut short"),
        ({"a": _entry(0, 16)}, 0, "header has 0 bytes"),
        (b"{nonsense", None, "not JSON"),
        (b"[" * 5000 + b"]" * 5000, None, "not JSON"),
        ([1], None, "no JSON object"),
        ({"a": 5}, None, "something else than an object"),
        ({"a": _entry(0, 32, (8,))}, None, "ends at byte 32, but the file has 16"),
        ({"a": _entry(0, 16, (5,))}, None, "has 16 bytes, but 5 numbers of F32 have 20"),
        ({"a": _entry(0, 16, (1 << 62, 1 << 62))}, None, "no sensible shape"),
        ({"a": _entry(0, 16, (-4,))}, None, "no sensible shape"),
        ({"a": _entry(0, 16, "4")}, None, "no sensible shape"),
        ({"a": _entry(0, 16, (True, 4))}, None, "no sensible shape"),
        ({"a": _entry(8, 0)}, None, "ends at byte 0"),
        ({"a": _entry(0, 16, kind="F99")}, None, "unknown type 'F99'"),
        ({"a": _entry(0, 16, (32,), kind="F4")}, None, "16-bit floats instead"),
        ({"a": _entry(0, 16, (4,), kind="F8_E4M3")}, None, "has 16 bytes, but 4 numbers of F8_E4M3 have 4"),
        ({"a": _entry(0, 16), "b": _entry(8, 16, (2,))}, None, "'b' overlaps 'a'"),
        ({"a": _entry(0, 4, (1,)), "b": _entry(8, 16, (2,))}, None, "4 bytes before tensor 'b' belong to none"),
        ({"a": _entry(0, 8, (2,))}, None, "8 bytes behind the last tensor belong to none"),
    ],
)
def test_headers_that_lie(header: Any, length: int | None, words: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", header, length=length)
    with pytest.raises(PowerInferError, match=words) as error:
        open_safetensors(path)
    assert str(error.value).startswith(f"{path}: ")
