"""The files for deployments: what they name exists, and they agree with one another."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml

from powerinfer_cli.commands.server.command import app
from powerinfer_cli.commands.server.environment import VARIABLES
from powerinfer_cli.deploy import copy_out
from powerinfer_cli.deploy.__main__ import main
from scripts.deploy_check.dockerfile import argument_defaults, environment, instructions, list_of

DEPLOY = Path(__file__).resolve().parent.parent / "powerinfer_cli" / "deploy"
DOCKERFILE = instructions((DEPLOY / "Dockerfile").read_text("utf-8"))
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text("utf-8"))["services"]
CUDA = yaml.safe_load((DEPLOY / "docker-compose.cuda.yml").read_text("utf-8"))["services"]
UNIT = (DEPLOY / "powerinfer.service").read_text("utf-8")


def flags(text: str) -> set[str]:
    """The flags in a command line."""
    return set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", text))


def settings(unit: str) -> dict[str, str]:
    """A unit's settings; of those given twice, the last."""
    return dict(line.split("=", 1) for line in unit.splitlines() if re.match(r"[A-Z]\w*=", line))


def test_all_files_are_copied_out_and_none_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "new" / "deploy")])
    copied = capsys.readouterr().out.split()
    expected = {path.name for path in DEPLOY.iterdir() if path.is_file() and path.suffix != ".py"}
    assert {Path(line).name for line in copied} == expected
    assert {"Dockerfile", "docker-compose.yml", "powerinfer.service"} <= expected
    for line in copied:
        assert Path(line).read_bytes() == (DEPLOY / Path(line).name).read_bytes()
    (tmp_path / "Dockerfile").write_text("mine")
    with pytest.raises(FileExistsError, match="Dockerfile"):
        copy_out(tmp_path)
    with pytest.raises(SystemExit, match="error: "):
        main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["Dockerfile"]


def test_the_image_serves_to_the_port_that_it_exposes_as_an_ordinary_user() -> None:
    entry = list_of(DOCKERFILE, "ENTRYPOINT")
    assert entry[:4] == ["powerinfer", "server", "--host", "0.0.0.0"]
    (exposed,) = (step.text for step in DOCKERFILE if step.keyword == "EXPOSE")
    assert entry[entry.index("--port") + 1] == exposed
    assert f":{exposed}/health" in " ".join(list_of(DOCKERFILE, "HEALTHCHECK"))
    (user,) = (step.text for step in DOCKERFILE if step.keyword == "USER")
    assert any(f"useradd --system --uid {user} " in step.text for step in DOCKERFILE if step.keyword == "RUN")
    assert environment(DOCKERFILE)["POWERINFER_CACHE"] in list_of(DOCKERFILE, "VOLUME")


@pytest.mark.parametrize(
    ("variant", "index"),
    [("cpu", "https://download.pytorch.org/whl/cpu"), ("cuda", "https://pypi.org/simple")],
)
def test_torch_is_installed_first_from_the_variants_index(variant: str, index: str, tmp_path: Path) -> None:
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$@"\n')
    pip.chmod(0o755)
    assert argument_defaults(DOCKERFILE)["VARIANT"] == "cpu"
    install = [step.text for step in DOCKERFILE if step.keyword == "RUN" and "pip install" in step.text]
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", install[0]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "VARIANT": variant, "TORCH_INDEX": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"--index-url {index} torch" in done.stdout
    assert "torch" not in install[1]


def test_every_flag_and_variable_exists() -> None:
    commands = [service["command"] for service in (COMPOSE["powerinfer"], CUDA["powerinfer"])]
    named = set.union(*(flags(re.sub(r"\$\{[^}]*\}", "", text)) for text in commands))
    named |= flags(" ".join(list_of(DOCKERFILE, "ENTRYPOINT"))) | flags((DEPLOY / "powerinfer.env").read_text("utf-8"))
    known = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}
    assert {"--vram-budget", "--host", "--slot-save-path"} <= named <= known
    texts = [UNIT, *((DEPLOY / name).read_text("utf-8") for name in ("powerinfer.env", "docker-compose.yml"))]
    variables = set(re.findall(r"\bLLAMA_\w*[A-Z]\b", "".join(texts)))
    assert {"LLAMA_ARG_MODEL", "LLAMA_API_KEY"} <= variables <= set(VARIABLES)


def test_open_webui_is_wired_to_the_server() -> None:
    server, page = COMPOSE["powerinfer"], COMPOSE["open-webui"]
    assert page["environment"]["OPENAI_API_BASE_URL"] == "http://powerinfer:8080/v1"
    assert page["environment"]["OPENAI_API_KEY"] == server["environment"]["LLAMA_API_KEY"]
    assert page["depends_on"]["powerinfer"]["condition"] == "service_healthy"
    assert server["build"]["args"]["VARIANT"] == "cpu"
    assert CUDA["powerinfer"]["build"]["args"]["VARIANT"] == "cuda"
    (device,) = CUDA["powerinfer"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_what_can_be_set_in_compose_is_told_and_nothing_else() -> None:
    used = set(
        re.findall(
            r"\$\{(\w+)",
            "".join((DEPLOY / name).read_text("utf-8") for name in ("docker-compose.yml", "docker-compose.cuda.yml")),
        )
    )
    told = set(re.findall(r"(?m)^(?:# )?([A-Z_]+)=", (DEPLOY / "compose.env").read_text("utf-8")))
    assert told == used


def test_the_unit_is_hardened_but_for_what_kernels_need() -> None:
    unit = settings(UNIT)
    assert unit["MemoryDenyWriteExecute"] == "no"
    expected = {
        "Restart": "always",
        "KillSignal": "SIGTERM",
        "DynamicUser": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
    }
    assert {name: unit[name] for name in expected} == expected
    assert int(unit["TimeoutStopSec"]) > 5
    assert f"POWERINFER_CACHE=/var/cache/{unit['CacheDirectory']} " in UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "powerinfer.service"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
