"""What scripts/gpu/compiled_kernels.py makes of what it is told. That kernels compile is test_triton.py's."""

import subprocess
from collections import Counter

import pytest

from scripts.gpu import compiled_kernels

USAGE = " Function _down:\n  REG:103 STACK:8 SHARED:4096 LOCAL:16 CONSTANT[0]:412 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
CODE = "LDG.E.128.CONSTANT R4, [R2] ; LDG.E.U16 R1, [R2] ; LDG.E R1, [R2] ; LDG.E.64 R2, [R2] ; LDS.128 R0, [R1]"


def test_what_machine_code_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_kernels, "_run", lambda tool, what, path: USAGE if "usage" in what else CODE)
    assert compiled_kernels.read_code(b"") == (103, 24, Counter({128: 1, 64: 1, 32: 1, 16: 1}))


def test_what_assembly_for_amd_tells() -> None:
    names = ("global_load_dwordx4", "global_load_b128", "buffer_load_dword", "global_load_d16_b16", "global_load_ubyte")
    loads = "".join(f"  {name} v1, v0, s[0:1]\n" for name in names)
    text = f"{loads} .private_segment_fixed_size: 24\n .vgpr_count:     103\n"
    assert compiled_kernels.read_assembly(text) == (103, 24, Counter({128: 2, 32: 1, 16: 1, 8: 1}))


def test_the_most_of_each_variant_and_spills_end_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "_down 4096 103 0 0 6 13 24 32\n_down 2048 64 24 0 0 0 0 1\n_norm 32\n"
    done = subprocess.CompletedProcess([], 0, told, "")
    monkeypatch.setattr(compiled_kernels.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match="1"):
        compiled_kernels.main(["75"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == ["_down", "2", "103", "SPILLS", "24", "4096", "16x6", "32x13", "64x24", "128x33"]
