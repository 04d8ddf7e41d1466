"""What a server has started of Ray ends with it, also where it is killed; what is left of dead ones is removed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from powerinfer_cli.cluster.replicas.guarding import guarded
from powerinfer_cli.cluster.replicas.noise import without_noise

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")

SERVER = """
import os, subprocess, sys
from powerinfer_cli.cluster.replicas.guarding import guarded
with guarded() as (folder, kill):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    print(folder, child.pid, flush=True)
    sys.stdin.read()
    if len(sys.argv) > 1:
        os.kill(os.getpid(), 9)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("killed", [True, False])
def test_what_was_started_ends_with_the_server(killed: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, *["killed"] * killed]
    pipe = subprocess.PIPE
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as server:
        assert server.stdout is not None
        folder, pid = server.stdout.readline().split()
        assert is_running(int(pid))
        assert Path(folder).parent == tmp_path
        _, told = server.communicate(timeout=30)  # the guard has the same stderr, and so this waits for it
    assert told == ("error: the server or its Ray was killed: all that belonged to it is ended\n" if killed else "")
    assert not is_running(int(pid))
    assert not Path(folder).exists()


def test_folders_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, old, new = (tmp_path / f"powerinfer-ray-{name}" for name in ("dead", "old", "new"))
    for folder in (dead, old, new):
        folder.mkdir()
    (dead / "held").touch()
    os.utime(old, (time.time() - 1000,) * 2)
    with guarded() as (first, _), guarded():
        assert Path(first).is_dir(), "its server lives"
        assert (dead.exists(), old.exists(), new.exists()) == (False, False, True)


def test_ray_does_not_tell_of_its_own_end() -> None:
    noise = (
        "Task ServeController.graceful_shutdown failed. Error: The actor is dead because it was killed by `ray.kill`."
    )
    assert without_noise([noise, "a word"]) == ["a word"]
