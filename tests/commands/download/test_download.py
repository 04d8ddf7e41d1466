"""`powerinfer download` in its own process against a hub on 127.0.0.1."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.bamboo_repo import PART, REPO, SIZE, WEIGHTS, files_in, folder, some_bytes, wanted
from tests.helpers.download_cli import Cli, Result, command, environment, run_once
from tests.helpers.hub_server import HubServer, Repo
from tests.helpers.interrupts import ctrl_c_counts

fcntl = pytest.importorskip("fcntl", reason="of Unix: another lock is tried, and sizes of files are limited")
resource = pytest.importorskip("resource")


def test_weights_statistics_and_the_command_to_run(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    place = tmp_path / "my models"
    args = ["bamboo-7b", "--quant", "q4", "--token", "hf_secret", "--local-dir", str(place)]
    first = run_once(args, tmp_path, environment(tmp_path, hub.url))

    assert first.code == 0, first
    assert files_in(place / "Bamboo-base-v0.1-gguf") == wanted(hub.repos[REPO], WEIGHTS)
    weights = place / "Bamboo-base-v0.1-gguf" / WEIGHTS
    assert first.out == f'powerinfer main -m {shlex.quote(str(weights))} -p "Once upon a time"\n'
    assert shlex.split(first.out) == ["powerinfer", "main", "-m", str(weights), "-p", "Once upon a time"]
    assert "downloading 3 MB in 4 files" in first.err
    assert "\x1b" not in first.err
    assert "secret" not in first.out + first.err
    content = [seen for seen in hub.requests if seen.path.startswith("/cdn/")]
    assert len(content) == 4
    assert all(seen.authorization is None for seen in content)
    assert {seen.authorization for seen in hub.requests if REPO in seen.path} == {"Bearer hf_secret"}

    hub.requests.clear()
    second = cli.run(tmp_path, *args)
    assert (second.code, second.out) == (0, first.out)
    assert "complete already (4 files, 3 MB)" in second.err
    assert [seen.path for seen in hub.requests if "api" not in seen.path] == []


def test_a_chat_model_is_run_as_a_chat(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.repos["Qwen/Qwen3-0.6B-GGUF"] = Repo({"Qwen3-0.6B-Q8_0.gguf": some_bytes(1, 1000)})
    result = cli.run(tmp_path, "qwen3-0.6b")
    assert result.out == "powerinfer main -m models/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf -cnv\n"


def test_ctrl_c_ends_cleanly_and_the_next_run_goes_on(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.pause = 0.02
    env = environment(tmp_path, hub.url)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ctrl_c_counts():
        process = subprocess.Popen(command("bamboo-7b:q4"), cwd=tmp_path, env=env, **pipes)
    part = folder(tmp_path) / PART
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 500_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    assert out == ""
    assert err.endswith("interrupted: run the same command again to go on from here\n")
    assert "Traceback" not in err
    assert set(files_in(folder(tmp_path))) == {part.name}
    held = part.stat().st_size
    assert 500_000 < held < SIZE

    hub.pause = 0.0
    hub.requests.clear()
    result = cli.run(tmp_path, "bamboo-7b:q4")
    assert result.code == 0, result
    assert f"{WEIGHTS}: 3 MB, going on from" in result.err
    assert files_in(folder(tmp_path)) == wanted(hub.repos[REPO], WEIGHTS)
    (rest,) = hub.bodies(WEIGHTS)
    assert (rest.range, rest.sent) == (f"bytes={held}-{SIZE - 1}", SIZE - held)


def test_broken_connections_are_resumed_by_range(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.breaks = {WEIGHTS: [1_000_000, 700_000]}
    result = cli.run(tmp_path, "bamboo-7b:q4")
    assert result.code == 0, result
    assert result.err.count("trying again in 0.5 s") == 2
    assert files_in(folder(tmp_path)) == wanted(hub.repos[REPO], WEIGHTS)
    requests = hub.bodies(WEIGHTS)
    assert len(requests) == 3
    assert requests[0].range is None
    assert all(re.fullmatch(rf"bytes=\d+-{SIZE - 1}", seen.range or "") for seen in requests[1:])
    assert sum(seen.sent for seen in requests) < 1.2 * SIZE


def test_a_server_without_ranges_starts_again(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.ranges = False
    hub.breaks = {WEIGHTS: [1_000_000]}
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0
    assert files_in(folder(tmp_path)) == wanted(hub.repos[REPO], WEIGHTS)
    assert [seen.sent for seen in hub.bodies(WEIGHTS)] == [1_000_000, SIZE]


def test_a_busy_server_is_asked_again(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.refuse = {WEIGHTS: [503], "activation_1.pt": [429]}
    result = cli.run(tmp_path, "bamboo-7b:q4")
    assert result.code == 0, result
    assert "status 503" in result.err
    assert files_in(folder(tmp_path)) == wanted(hub.repos[REPO], WEIGHTS)


def test_what_arrives_damaged_is_not_kept(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    lfs = {"sha256": "0" * 64, "size": SIZE, "pointerSize": 130}
    hub.repos[REPO].listed = {WEIGHTS: {"lfs": lfs}}
    error = cli.run(tmp_path, "bamboo-7b:q4").error
    assert f"{WEIGHTS} arrived damaged (its sha256 is not the hub's)" in error
    assert files_in(folder(tmp_path)) == {}
    hub.repos[REPO].listed = {}
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0


def test_more_bytes_than_listed_are_refused(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.repos[REPO].listed = {"config.json": {"size": 1}}
    error = cli.run(tmp_path, REPO, "--include", "config.json").error
    assert "sends more of config.json than the hub's 1 bytes" in error
    assert files_in(folder(tmp_path)) == {}


def test_hostile_names_are_written_nowhere(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    names = ["../../outside.gguf", str(outside), "a/../../../outside.gguf", "..\\..\\outside.gguf", "\x1b[2J.gguf"]
    hub.repos = {"evil/repo": Repo({"good.gguf": b"GGUF"} | dict.fromkeys(names, b"evil"))}
    cwd = tmp_path / "work"
    cwd.mkdir()
    result = cli.run(cwd, "evil/repo", "--include", "*")
    assert result.code == 0, result
    assert "ignored names that are unsafe as file names (5): '../../outside.gguf'" in result.err
    assert files_in(tmp_path).keys() - {"work/models/repo/.powerinfer-download.json"} == {"work/models/repo/good.gguf"}
    hub.repos = {"evil/repo": Repo(dict.fromkeys(names, b"evil"))}
    assert "evil/repo holds no GGUF file" in cli.run(cwd, "evil/repo").error


def test_split_weights_in_a_folder(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    parts = {f"Q6_K/big-Q6_K-0000{n}-of-00003.gguf": some_bytes(n, 1000) for n in (1, 2, 3)}
    hub.repos = {"o/split": Repo(parts | {"big-q8_0.gguf": b"x"})}
    result = cli.run(tmp_path, "o/split:Q6_K")
    assert result.out == 'powerinfer main -m models/split/Q6_K/big-Q6_K-00001-of-00003.gguf -p "Once upon a time"\n'
    assert files_in(folder(tmp_path, "o/split")) == parts


@pytest.mark.parametrize("lacking", ["sizes", "siblings"])
def test_mirrors_that_tell_less(hub: HubServer, cli: Cli, tmp_path: Path, lacking: str) -> None:
    repo = hub.repos[REPO]
    setattr(repo, f"{lacking}_listed", False)
    result = cli.run(tmp_path, REPO, "--quant", "q4", "--include", "*Q4_0.powerinfer*", "--include", "config.json")
    assert result.code == 0, result
    assert files_in(folder(tmp_path)) == wanted(repo, WEIGHTS, "config.json")


def test_new_content_replaces_old_and_the_rest_stays(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0
    repo = hub.repos[REPO]
    repo.commit = "f" * 40
    repo.files[WEIGHTS] = some_bytes(99, SIZE)
    (folder(tmp_path) / "activation" / "activation_2.pt").write_bytes(b"cut off")
    hub.requests.clear()
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0
    assert files_in(folder(tmp_path)) == wanted(repo, WEIGHTS)
    assert len([seen for seen in hub.requests if seen.path.startswith("/cdn/")]) == 2


def test_what_is_left_of_other_content_goes(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    folder(tmp_path).mkdir(parents=True)
    (folder(tmp_path) / f"{WEIGHTS}.0123abcd.part").write_bytes(b"older")
    (folder(tmp_path) / f"{WEIGHTS}.notes.part").write_bytes(b"mine")
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0
    left = wanted(hub.repos[REPO], WEIGHTS) | {f"{WEIGHTS}.notes.part": b"mine"}
    assert files_in(folder(tmp_path)) == left


def test_a_partial_file_that_is_damaged_is_found_out(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    folder(tmp_path).mkdir(parents=True)
    (folder(tmp_path) / PART).write_bytes(b"not what the server sent")
    assert "arrived damaged" in cli.run(tmp_path, "bamboo-7b:q4").error
    (folder(tmp_path) / PART).write_bytes(bytes(SIZE + 1))
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0


def test_files_that_came_another_way_are_checked_and_kept(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    repo = hub.repos[REPO]
    folder(tmp_path).mkdir(parents=True)
    (folder(tmp_path) / WEIGHTS).write_bytes(repo.files[WEIGHTS])
    result = cli.run(tmp_path, "bamboo-7b:q4")
    assert f"{WEIGHTS} is here already: checking its sha256" in result.err
    assert hub.bodies(WEIGHTS) == []
    (folder(tmp_path) / WEIGHTS).write_bytes(some_bytes(5, SIZE))
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0
    assert files_in(folder(tmp_path)) == wanted(repo, WEIGHTS)


def test_one_download_of_a_file_at_a_time(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    folder(tmp_path).mkdir(parents=True)
    part = folder(tmp_path) / PART
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "is being downloaded by another process" in cli.run(tmp_path, "bamboo-7b:q4").error


def test_a_folder_belongs_to_one_repository(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.repos["someone/Bamboo-base-v0.1-gguf"] = Repo({"x.gguf": b"GGUF"})
    assert cli.run(tmp_path, "bamboo-7b:q4").code == 0
    error = cli.run(tmp_path, "someone/Bamboo-base-v0.1-gguf").error
    assert f"holds files of {REPO}, not of someone/Bamboo-base-v0.1-gguf: choose another --local-dir" in error


def test_revisions(hub: HubServer, cli: Cli, tmp_path: Path) -> None:
    hub.repos[REPO].revisions = ("main", "v/2")
    assert cli.run(tmp_path, "bamboo-7b:q4", "--revision", "v/2").code == 0
    assert hub.requests[0].path == f"/api/models/{REPO}/revision/v/2"
    error = cli.run(tmp_path, "bamboo-7b:q4", "--revision", "v3").error
    assert error == f"error: {REPO} has no revision 'v3': check --revision"


def test_a_write_that_fails_is_one_line_and_keeps_what_came(hub: HubServer, tmp_path: Path) -> None:
    env = environment(tmp_path, hub.url)

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        command("bamboo-7b:q4"),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=small_files_only,
    )
    error = Result(done.returncode, done.stdout, done.stderr).error
    assert re.search(r"cannot write to models/Bamboo-base-v0.1-gguf.*: File too large", error)
    (part,) = files_in(folder(tmp_path)).values()
    assert hub.repos[REPO].files[WEIGHTS].startswith(part)
    assert len(part) > 500_000


FETCH_MODEL = """
import os, sys
from pathlib import Path
from powerinfer_cli.commands.download.progress import make_watch
from powerinfer_cli.hub import fetch_model
from powerinfer_cli.errors import PowerInferError
for spec in sys.argv[1:]:
    try:
        print(fetch_model(spec, make_watch(), local_dir=Path("models")))
    except PowerInferError as error:
        print(type(error).__name__, error)
"""


def test_fetch_model_downloads_once_and_works_offline(hub: HubServer, tmp_path: Path) -> None:
    path = f"models/Bamboo-base-v0.1-gguf/{WEIGHTS}"

    def fetch_models(*specs: str, **env: str) -> list[str]:
        arguments = [sys.executable, "-c", FETCH_MODEL, *specs]
        env = environment(tmp_path, hub.url, **env)
        return subprocess.check_output(arguments, cwd=tmp_path, env=env, text=True, timeout=60).splitlines()

    assert fetch_models("bamboo-7b", "bamboo-7b:q4") == [path, path]
    assert files_in(folder(tmp_path)) == wanted(hub.repos[REPO], WEIGHTS)
    hub.requests.clear()
    (folder(tmp_path) / WEIGHTS).touch()
    offline = fetch_models("bamboo-7b", f"{REPO}:Q4_0", "bamboo-7b:f16", HF_HUB_OFFLINE="1")
    assert offline[:2] == [path, path]
    assert offline[2] == f"HubUnreachable cannot look up {REPO}: offline mode is on (HF_HUB_OFFLINE)"
    assert hub.requests == []


def test_the_list_and_the_help_name_what_there_is(cli: Cli, tmp_path: Path) -> None:
    listed = cli.run(tmp_path, "--list").out
    for text in ("bamboo-7b", "relufalcon-40b", "PowerInfer/ReluLLaMA-70B-PowerInfer-GGUF", "42.2 GB q4", "unknown"):
        assert text in listed
    assert all(len(line) <= 60 for line in listed.splitlines())
    sizes = re.findall(r"^  \S+ +(\d+) MB \w+ +apache-2.0$", listed, re.MULTILINE)
    assert [int(size) for size in sizes] == [105, 386, 491, 639]
    assert listed.index("639 MB") < listed.index("bamboo-7b")
    told = cli.run(tmp_path, "--help").out
    for text in ("--quant", "--include", "--exclude", "--local-dir", "--revision", "--token", "Examples"):
        assert text in told


def test_the_command_loads_the_hub_library_only_to_use_it() -> None:
    code = (
        "import sys, powerinfer_cli.commands.download; print('huggingface_hub' in sys.modules, 'torch' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": "."}, text=True)
    assert out == "False False\n"
