"""`powerinfer cluster config` writes what `serve deploy` reads; flags that make no sense are one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from powerinfer_cli.cli import app
from powerinfer_cli.commands.cluster.application import ClusterArgs
from powerinfer_cli.commands.cluster.fleet import replica_of_words
from powerinfer_cli.errors import PowerInferError
from tests.helpers.cluster.replicas import needs_ray


def run(*words: str) -> None:
    with mock.patch.object(sys, "argv", ["program"]):  # that has no words of its own
        app(["cluster", *words], prog_name="powerinfer", standalone_mode=False)


def written(folder: Path, *words: str) -> Any:
    file = folder / "serve.yaml"
    run("config", "-o", str(file), *words)
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_the_file_says_the_same_as_the_flags(tmp_path: Path) -> None:
    auto = ["--replicas", "auto", "--max-replicas", "20", "--gpus-per-replica", "0.5"]
    door = ["--host", "0.0.0.0", "--port", "9000", "--api-key", "a b"]
    file = written(tmp_path, *auto, *door, "-t", "8", "-np", "3", "--temp=0.5", "--alias", "x: 'y\"")
    assert (file["http_options"]["host"], file["http_options"]["port"]) == ("0.0.0.0", 9000)
    application = file["applications"][0]
    args = ClusterArgs.model_validate(application["args"])
    assert (args.replicas, args.min_replicas, args.max_replicas) == ("auto", 1, 20)
    assert (args.gpus_per_replica, args.cpus_per_replica) == (0.5, 8)
    loader = replica_of_words(args.flags)
    assert loader.engine.n_sequences == 3
    assert (loader.options.api_keys, loader.options.alias) == ({"a b"}, "x: 'y\"")
    assert loader.options.sampler.temp == 0.5


def test_a_file_of_this_machine_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    flags = written(tmp_path, "-m", "model.gguf", "-c", "512")["applications"][0]["args"]["flags"]
    assert flags == ["-m", str(tmp_path / "model.gguf"), "-c", "512"]
    assert written(tmp_path, "--model=elsewhere.gguf")["applications"][0]["args"]["flags"] == ["-m", "elsewhere.gguf"]


def test_a_file_of_keys_is_read_by_the_nodes_alone(tmp_path: Path) -> None:
    flags = written(tmp_path, "--api-key-file", "/nowhere/keys")["applications"][0]["args"]["flags"]
    assert flags == ["--api-key-file", "/nowhere/keys"]


def test_who_has_secrets_in_it_is_the_owners(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    written(tmp_path)
    before = file.stat().st_mode & 0o777
    written(tmp_path, "--api-key=sekret")
    assert file.stat().st_mode & 0o077 == 0
    assert before & 0o400


def test_names_are_written_as_they_are(tmp_path: Path) -> None:
    name = "/models/\U0001f98a\u2028x.gguf"
    assert written(tmp_path, "-m", name)["applications"][0]["args"]["flags"] == ["-m", name]
    assert "\U0001f98a" in (tmp_path / "serve.yaml").read_text(encoding="utf-8")


SCRIPT = """
import sys, yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema
from powerinfer_cli.commands.cluster.application import ClusterArgs, app
(one,) = ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1]))).applications
assert one.import_path == f"{app.__module__}:app"
assert isinstance(app(ClusterArgs.model_validate(one.args)), Application)
"""


@needs_ray
def test_ray_takes_the_file_and_the_application(tmp_path: Path) -> None:
    """In a process of its own: Ray warns."""
    written(tmp_path, "--replicas", "auto", "-t", "3", "--gpus-per-replica", "0.5", "-np", "2")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "serve.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--replicas", "many"], "--replicas many: must be a number from 1 to 10000, or auto"),
        (["--replicas", "2", "--max-replicas", "3"], "for --replicas auto"),
        (["--replicas", "auto", "--min-replicas", "5", "--max-replicas", "3"], "--min-replicas 5 is more than"),
        (["--gpus-per-replica", "1.5"], "whole GPUs, or a part of one"),
        (["--sleep-idle-seconds", "5"], "not for replicas"),
        (["--slot-save-path", "."], "not for replicas"),
        (["--host", "a,b"], "one address"),
        (["-t", "-5"], "-t -5: must be the cores"),
        (["--port", "0"], "must name a port"),
        (["-o", "/nowhere/serve.yaml"], "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(PowerInferError, match=line) as raised:
        run("config", *words)
    assert "\n" not in str(raised.value)
