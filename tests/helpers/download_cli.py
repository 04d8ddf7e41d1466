"""Runs `powerinfer download` in other processes: HF_ENDPOINT and HF_HOME are read once, when huggingface_hub loads."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.helpers.result import Result

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    """Nothing of the caller's hub settings, login or proxies."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Its default of ten seconds is less than a server on a crowded machine may need.
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error::ResourceWarning",
        **more,
    }


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "powerinfer_cli", "download", *args]


def run_once(args: Sequence[str], cwd: Path, env: dict[str, str]) -> Result:
    done = subprocess.run(command(*args), cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


class Cli:
    """One process that runs many commands, each as the program would: imports are paid once."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment(home, endpoint),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Cli":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate(timeout=30)

    def run(self, cwd: Path, *args: str) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(cwd), ["powerinfer", "download", *args]]) + "\n")
        self._process.stdin.flush()
        return Result(*json.loads(self._process.stdout.readline()))


def _serve() -> None:
    from powerinfer_cli.cli import run

    for line in sys.stdin:
        cwd, sys.argv = json.loads(line)
        os.chdir(cwd)
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run()
            except SystemExit as end:
                code = end.code or 0
        print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)


if __name__ == "__main__":
    _serve()
