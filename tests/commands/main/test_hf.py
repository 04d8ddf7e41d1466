"""`main -hf`: fetch a model from a hub, then run it; the second time without the hub."""

import subprocess
import sys
from pathlib import Path

import pytest

from powerinfer_cli.kernels import jit
from tests.helpers.download_cli import environment
from tests.helpers.hub_server import HubServer, Repo


def main(folder: Path, endpoint: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "powerinfer_cli", "main", *args]
    kernels = str(jit.cache_folder().parents[2])  # a new home has none, and all would be compiled
    settings = environment(folder, endpoint, POWERINFER_CACHE=kernels, **env)
    return subprocess.run(command, cwd=folder, env=settings, text=True, capture_output=True, timeout=100, check=False)


@pytest.mark.timeout(200)
def test_fetched_once_then_run_offline(words: str, tmp_path: Path) -> None:
    with HubServer({"someone/words-gguf": Repo({"words.Q8_0.gguf": Path(words).read_bytes()})}) as hub:
        flags = ("-hf", "someone/words-gguf:Q8_0", "-p", "one", "-n", "3", "--temp", "0")
        first = main(tmp_path, hub.url, *flags)
        assert first.returncode == 0, first.stderr
        assert "tokens/s" in first.stderr
        direct = main(tmp_path, hub.url, "-m", words, *flags[2:])
        assert first.stdout == direct.stdout != ""
    offline = main(tmp_path, "http://127.0.0.1:1", *flags, HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout


def test_a_missing_repository_is_one_line(tmp_path: Path) -> None:
    with HubServer({}) as hub:
        done = main(tmp_path, hub.url, "-hf", "someone/nothing", "-p", "one")
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert "someone/nothing" in done.stderr
    assert "Traceback" not in done.stderr
