"""What scripts/gpu_check does on a GPU, rehearsed without one."""

import json
from pathlib import Path

import pytest
import torch

from scripts.gpu.check import main


@pytest.mark.timeout(300)
def test_a_rehearsal_counts_waits_and_writes_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]
    assert main(["--device", "cpu", "--shapes", "tiny", "--only", "waits", *folders]) == 0
    (result,) = (tmp_path / "out").glob("gpu-*-cpu.json")
    findings = json.loads(result.read_text())["findings"]
    assert len(findings) == 3
    assert all(finding["ok"] for finding in findings)
    assert findings[-1]["seen"] == "1 waits of 1"  # everything is on the device
    table = result.with_suffix(".md").read_text()
    assert all(finding["check"] in table for finding in findings)
    assert capsys.readouterr().out.count("ok ") == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "no CUDA GPU" in capsys.readouterr().err


def test_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "speed,everything"])
    assert "everything" in capsys.readouterr().err
