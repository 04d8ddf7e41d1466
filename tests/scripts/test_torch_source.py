"""Which torch the scripts and the README's line install, on a machine with an NVIDIA GPU or none."""

import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import torch_source
from scripts.torch_source import answers, choose

ROOT = Path(__file__).resolve().parents[2]
NO_GPU: list[str] = []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def index(folder: Path, version: str) -> Path:
    """An index as PyPI's, with a torch of this version for each Python."""
    page = folder / "torch" / "index.html"
    page.parent.mkdir(parents=True)
    names = [f"torch-{version}-cp3{minor}-cp3{minor}-manylinux_2_28_x86_64.whl" for minor in (11, 12, 13)]
    page.write_text("".join(f'<a href="{name.replace("+", "%2B")}">{name}</a>\n' for name in names))
    for name in names:
        with zipfile.ZipFile(page.parent / name, "w") as wheel:
            wheel.writestr(
                f"torch-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}"
            )
            wheel.writestr(f"torch-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
    return folder


@pytest.fixture
def builds(tmp_path: Path) -> Iterator[str]:
    """The address of an index of builds for CPUs."""
    folder = index(tmp_path / "cpu", "2.13.0+cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(target: Path, python: str, *options: str) -> list[str]:
    """What pip takes for this Python, its own settings and this machine's apart."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    tags = ["--python-version", python, "--implementation", "cp", "--platform", "manylinux_2_28_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *tags, *options]
    command += ["-d", str(target), "-c", str(ROOT / "constraints.txt"), "torch"]
    environment = clean | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "NO_PROXY": "127.0.0.1"}
    subprocess.run(command, check=True, timeout=60, env=environment, cwd=target)
    return [path.name.split("-")[1] for path in target.glob("torch-*.whl")]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_without_a_gpu_pip_takes_the_build_for_cpus(
    builds: str, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_source, "CPU_INDEX", builds)
    option, line = choose("linux", NO_GPU, None)
    assert option == f"--extra-index-url={builds}"
    assert line == f"no NVIDIA GPU here: torch for CPUs alone, from {builds}: about 0.2 GB to fetch, 0.9 GB on the disk"
    everybodys = index(tmp_path / "pypi", "2.13.0").as_uri()
    assert fetched(tmp_path, python, f"--index-url={everybodys}", option) == ["2.13.0+cpu"]


def test_with_a_gpu_it_is_pypis(builds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_source, "CPU_INDEX", builds)
    driver = tmp_path / "nvidia0"
    driver.touch()
    option, line = choose("linux", ["/dev/none", str(driver)], builds)
    assert option == ""
    assert line == "torch for NVIDIA GPUs: about 2.7 GB to fetch, 4.7 GB on the disk"
    assert choose("darwin", NO_GPU, None) == ("", "")


def test_a_place_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert not answers(address, 0.2)
        assert time.monotonic() - began < 5
    monkeypatch.setattr(torch_source, "CPU_INDEX", address)  # which is closed now
    option, line = choose("linux", NO_GPU, None)
    assert option == ""
    assert line.startswith(
        f"no NVIDIA GPU here, but {address} does not answer: torch from where pip finds it, which is"
    )
    assert "4.7 GB on the disk" in line
    assert choose("linux", NO_GPU, "http://mirror/cpu")[0] == "--extra-index-url=http://mirror/cpu"
    assert not answers("http://[nonsense")


def test_an_index_without_torch_is_none(builds: str) -> None:
    assert answers(f"{builds}/")
    assert not answers(f"{builds}/other")


def test_the_readme_and_the_scripts_ask() -> None:
    asked = "$(python scripts/torch_source.py)"
    assert f"pip install -c constraints.txt torch {asked}" in (ROOT / "README.md").read_text()
    assert "scripts/torch_source.py" in (ROOT / "scripts" / "environment.sh").read_text()
    done = subprocess.run(
        [sys.executable, "scripts/torch_source.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"TORCH_INDEX": "http://mirror/cpu"},
    )
    gpu = any(Path(path).exists() for path in torch_source.DRIVER)
    assert done.stdout == ("\n" if gpu else "--extra-index-url=http://mirror/cpu\n")
    assert len(done.stderr.splitlines()) == 1
