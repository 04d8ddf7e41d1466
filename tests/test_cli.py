"""The program around its commands: help without torch, one line for what is wrong, streams that are not there."""

import errno
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer.main

from powerinfer_cli import __version__, cli
from tests.helpers.main_cli import powerinfer
from tests.helpers.word_model import ANSWER, word_model

ROOT = Path(__file__).resolve().parents[1]
COMMAND_MODULES = [f"powerinfer_cli.commands.{name}" for name in cli.COMMANDS]


REPORT = """
import sys
from powerinfer_cli.cli import run
try:
    run()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def imported(*args: str) -> set[str]:
    """What the program has imported at its end, run in a process of its own."""
    command = [sys.executable, "-c", REPORT, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, cwd=ROOT)
    assert "Usage: powerinfer" in done.stdout
    return set(done.stderr.split())


def test_help_loads_no_command_and_no_torch() -> None:
    modules = imported("--help")
    assert "powerinfer_cli.cli" in modules
    assert not modules & {"torch", "numpy", "rich", *COMMAND_MODULES}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_loads_no_torch(command: str) -> None:
    modules = imported(command, "--help")
    assert f"powerinfer_cli.commands.{command}" in modules
    assert "torch" not in modules


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_module_and_help(command: str) -> None:
    assert importlib.import_module(f"powerinfer_cli.commands.{command}").app.registered_commands
    for flag in ("--help", "-h"):
        result = powerinfer(command, flag)
        assert (result.code, result.err) == (0, "")
        assert f"Usage: powerinfer {command} [OPTIONS]" in result.out


# A group of commands has no flags: those of its command are asked for.
PAGES = {name: name for name in cli.COMMANDS if name != "cluster"} | {
    "cluster run": "cluster.run_text",
    "cluster run --port 0": "cluster.run_server",
}


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("command", PAGES)
def test_help_shows_every_name_whole(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = powerinfer(*command.split(), "--help").out
    params = typer.main.get_command(importlib.import_module(f"powerinfer_cli.commands.{PAGES[command]}").app).params
    names = {name for param in params for name in [*param.opts, *param.secondary_opts] if name.startswith("-")}
    assert len(names) >= 3
    assert names <= set(re.findall(r"-[^\s,]+", page))
    text = " ".join(page.split())
    assert [help_of(param) for param in params if help_of(param) not in text] == []
    options = page.split("Examples:")[0].splitlines()
    assert max(len(line) for line in options if "powerinfer" not in line) < max(width, 60)  # words are never cut
    assert "Raises" not in page


def help_of(param: Any) -> str:
    return " ".join((param.help or "").split())


def test_help_names_the_flags_of_other_solvers() -> None:
    page = powerinfer("solve", "--help").out
    assert "--vram-budget, --gpu-memory-gb GiB,..." in page
    assert "-ngl, --gpu-layers, --n-gpu-layers, --target-gpu-layers N" in page


def test_examples_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = powerinfer("main", "--help").out.splitlines()
    assert "powerinfer main -m model.gguf -f notes.txt -n 64 -s 1 --temp 0 > out.txt" in lines
    at = lines.index('powerinfer main -p "Once upon a time"')
    assert lines[at + 1] == "    a story from the bundled model"


def test_help_lists_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = powerinfer("--help")
    assert result.code == 0
    for name, summary in cli.COMMANDS.items():
        assert name in result.out
        assert summary[:40] in result.out


def test_no_arguments_show_the_help() -> None:
    result = powerinfer()
    assert result.code == 2
    assert "Usage: powerinfer" in result.out


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "powerinfer_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == (f"powerinfer {__version__}\n", "")


def test_version() -> None:
    result = powerinfer("--version")
    assert (result.code, result.out, result.err) == (0, f"powerinfer {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("chat a/model.gguf", "`powerinfer main -m a/model.gguf -cnv`"),
        ("chat owner/name", "`powerinfer main -hf owner/name -cnv`"),
        ("serve", "`powerinfer server -m FILE.gguf`"),
        ("llama-server -m x", "`powerinfer server -m FILE.gguf`"),
        ("pull llama3", "`powerinfer download OWNER/NAME`"),
        ("ls", "`powerinfer list`"),
        ("remove x", "`powerinfer rm NAME`"),
        ("help", "`powerinfer --help`"),
        ("model.gguf", "`powerinfer main -m model.gguf -cnv`"),
        ("-m model.gguf", "`powerinfer main -m ...`"),
        ("serv", "Did you mean 'server'?"),
        ("main hello", 'use -p "hello"'),
        ("main -p Once upon a time", 'as -p "Once upon a time"'),
        ("main model.gguf", "as -m model.gguf"),
        ("server model.gguf", "as -m model.gguf"),
        ("bench 7 8", "unexpected '7 8': every value follows its flag; see `powerinfer bench --help`"),
        ("download", "`powerinfer download --list`"),
    ],
)
def test_what_other_programs_call_it_leads_to_ours(words: str, advice: str) -> None:
    result = powerinfer(*words.split())
    assert (result.code, result.out) == (2, "")
    assert advice in result.error


@pytest.mark.parametrize("args", [["nonsense"], ["--nonsense"], ["main", "--nonsense"], ["main", "-n", "x"]])
def test_wrong_usage_is_one_line(args: list[str]) -> None:
    result = powerinfer(*args)
    assert (result.code, result.out) == (2, "")
    assert result.err == result.error + "\n"


class FullDisk(io.StringIO):
    """Takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def words(tmp_path: Path) -> str:
    return str(word_model().write(tmp_path / "words.gguf"))


def run_with(stream: str, value: object, *args: str) -> tuple[object, str, str]:
    """(exit code, stdout, stderr) where one of the streams is `value`."""
    streams: dict[str, object] = {"stdin": io.StringIO(), "stdout": io.StringIO(), "stderr": io.StringIO()}
    shown = dict(streams)
    streams[stream] = value
    with mock.patch.multiple(sys, argv=["powerinfer", *args], **streams):
        with pytest.raises(SystemExit) as end:
            cli.run()
        opened = getattr(sys, stream)
        if value is None:
            opened.close()
    return end.value.code, shown["stdout"].getvalue(), shown["stderr"].getvalue()  # type: ignore[attr-defined]  # a StringIO each


FROM_C = """
import ctypes, sys
from powerinfer_cli.commands.download import command
from powerinfer_cli.cli import run

def told():
    ctypes.CDLL(None).puts(b"from C")
    print("text")

command._print_aliases = told
run()
"""


def test_what_libraries_print_from_c_is_not_in_the_text() -> None:
    command = [sys.executable, "-c", FROM_C, "download", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("text\n", "from C\n")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd=ROOT,
    )
    assert (closed.stdout, closed.stderr) == ("text\n", "")


def test_output_that_cannot_be_written(words: str) -> None:
    args = ("main", "-m", words, "-t", "1", "-n", "3", "-p", "", "--log-disable")
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device, and no file
        code, _, err = run_with("stdout", full, *args)
    assert (code, err) == (1, "error: cannot write the output: No space left on device\n")
    code, _, err = run_with("stdout", None, *args)
    assert (code, err) == (1, "error: cannot write the output: Bad file descriptor\n")


def test_closed_stdin_is_the_end_of_input(words: str) -> None:
    code, out, _ = run_with("stdin", None, "main", "-m", words, "-t", "1", "-cnv", "-p", "hi")
    assert (code, out) == (0, ANSWER + "\n")


def test_notes_that_nobody_reads_are_not_in_the_text(words: str) -> None:
    args = ("main", "-m", words, "-t", "1", "-n", "1", "-p", "Once")
    code, out, _ = run_with("stderr", None, *args)
    assert (code, out) == (0, "Once upon\n")
    code, out, _ = run_with("stderr", FullDisk(), *args)
    assert (code, out) == (0, "Once upon\n")


def test_a_stream_in_another_encoding_gets_question_marks(words: str) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii")
    code, _, _ = run_with("stdout", ascii_only, "main", "-m", words, "-t", "1", "-p", "The caf")
    ascii_only.flush()
    assert (code, ascii_only.buffer.getvalue()) == (0, b"The caf?!\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shell", "begins"),
    [("bash", "_powerinfer_completion() {"), ("zsh", "#compdef powerinfer"), ("fish", "complete --command powerinfer")],
)
def test_completion_is_that_of_the_shell_which_is_named(tmp_path: Path, shell: str, begins: str) -> None:
    result = powerinfer("--show-completion", shell)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(begins)
    if program := shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(result.out)
        subprocess.run([program, "-n", script], check=True, timeout=30)


def test_completion_for_a_shell_that_nobody_knows() -> None:
    result = powerinfer("--show-completion", "tcsh")
    assert (result.code, result.out) == (2, "")
    assert result.error == "error: --show-completion tcsh: no such shell; known are bash, zsh, fish, powershell, pwsh"


def test_download_alone_points_to_its_own_help() -> None:
    result = powerinfer("download")
    assert (result.code, result.out) == (2, "")
    assert "`powerinfer download --list` shows some to start from, `powerinfer download --help`" in result.error


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-n", "x"], "-n must be a whole number, got 'x'"),
        (["-c", "1.5"], "-c must be a whole number, got '1.5'"),
        (["--temp", ""], "--temp must be a number, got ''"),
        (["-t", "513"], "-t must be 512 or less, got '513'"),
        (["-ngl", "-5"], "-ngl must be -1 or more, got '-5'"),
        (["-ctk", "q9"], "-ctk is wrong: 'q9' is not one of 'f32', 'f16', 'q8_0'"),
        (["--temp", "-1"], "--temp must be 0 or more, got -1.0"),
        (["--top-p", "2"], "--top-p must be from 0 to 1, got 2.0"),
    ],
)
def test_a_wrong_value_is_told_in_our_own_words(args: list[str], says: str) -> None:
    result = powerinfer("main", *args)
    assert (result.code, result.error) == (2, f"error: {says}")


@pytest.mark.parametrize(
    "args",
    [
        ["main", "-m", ""],
        ["main", "--model="],
        ["main", "-p", "x", "-f", ""],
        ["server", "--path", ""],
        ["server", "--slot-save-path", ""],
        ["solve", "-o", ""],
        ["download", "smollm2-135m", "--local-dir", ""],
        ["bench", "-m", ""],
    ],
)
def test_a_file_whose_name_is_empty_is_not_the_current_folder(args: list[str]) -> None:
    """As from a shell's variable that is not set."""
    result = powerinfer(*args)
    assert result.code == 2
    flag = next(arg for arg in reversed(args) if arg).rstrip("=")
    assert result.error.startswith(f"error: {flag} is empty: name a ")


def test_the_flag_is_named_as_it_was_given() -> None:
    assert powerinfer("main", "--n-predict", "x").error == "error: --n-predict must be a whole number, got 'x'"
