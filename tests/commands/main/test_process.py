"""`powerinfer main` and what is around it: pipes, signals, a terminal's keys."""

import re
import stat
import time
from pathlib import Path

from tests.helpers.main_cli import Process
from tests.helpers.word_model import ANSWER, STORY

ENDLESS = ("-t", "1", "-c", "32", "--ctx-shift", "-p", "")


def test_ctrl_c_ends_the_text_and_reports(words: str) -> None:
    with Process("main", "-m", words, *ENDLESS) as process:
        process.wait_for(STORY)
        process.interrupt()
        result = process.wait()
    assert result.code == 130
    assert result.out.startswith(STORY)
    assert result.out.endswith("\n")
    assert "[interrupted]" in result.err
    result.note(r"^generation: .* tokens/s$")
    assert "Traceback" not in result.err


def test_a_reader_that_leaves_ends_it_quietly(words: str) -> None:
    with Process("main", "-m", words, *ENDLESS) as process:
        process.wait_for(STORY)
        process.close_output()
        result = process.wait()
    assert result.code == 0
    assert "generation" not in result.err
    assert "Traceback" not in result.err
    assert "error" not in result.err


def test_the_text_is_written_as_it_is_made(words: str) -> None:
    with Process("main", "-m", words, *ENDLESS) as process:
        process.wait_for(STORY, times=3)  # it never ends by itself


def test_chat_in_a_pipe_answers_each_line_at_once(words: str) -> None:
    with Process("main", "-m", words, "-t", "1", "-cnv") as process:
        for turn in (1, 2):
            process.type("hi\n")
            process.wait_for(ANSWER + "\n", times=turn)
        process.end_input()
        result = process.wait()
    assert result.code == 0
    assert result.out == f"{ANSWER}\n{ANSWER}\n"


def test_ctrl_c_ends_a_chat_whose_input_is_a_pipe(words: str) -> None:
    with Process("main", "-m", words, "-t", "1", "-cnv") as process:
        process.type("hi\n")
        process.wait_for(ANSWER + "\n")
        process.interrupt()
        assert process.wait().code == 130


def _chat(words: str, home: Path, *more: str) -> Process:
    # Messages that begin with "again" are answered without end.
    template = "{{ messages[-1].content }}"
    env = {"XDG_STATE_HOME": str(home)}
    args = ("-m", words, "-t", "1", "-c", "100", "--ctx-shift", "-cnv", "--chat-template", template)
    return Process("main", *args, *more, terminal=True, env=env)


def test_chat_at_a_terminal(words: str, tmp_path: Path) -> None:
    with _chat(words, tmp_path) as process:
        process.wait_for_editor(1)
        process.type("again and again\r")
        process.wait_for("again again again again")
        process.type("\x03")  # stops the answer, not the chat
        process.wait_for("[interrupted]")
        process.wait_for_editor(2)
        process.type("dropped\x03")
        process.wait_for("ends the chat")
        process.wait_for_editor(3)
        process.type("XThe caf\x01\x04\x05\r")  # editing: to the start, delete X, to the end
        process.wait_for("é!")
        process.wait_for_editor(4)
        process.type("\x1b[A\x1b[A\x1b[B\r")  # history: two up, one down
        process.wait_for("é!", times=2)
        process.wait_for_editor(5)
        process.type("\x04")
        result = process.wait()
    assert result.code == 0
    assert "tokens/s" in result.out
    assert result.out.rstrip().endswith("MiB")
    history = tmp_path / "powerinfer" / "history"
    typed = [line for line in history.read_text().splitlines() if line.startswith("+")]
    assert typed == ["+again and again", "+The caf"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_simple_terminal_shows_no_control_characters_of_the_model(words: str, tmp_path: Path) -> None:
    with _chat(words, tmp_path, "--simple-io") as process:
        process.wait_for("> ")
        process.type("so clear\n")
        process.wait_for("␛[2J")
        process.type("\x04")
        result = process.wait()
    assert result.code == 0
    assert "\x1b" not in result.out
    assert not (tmp_path / "powerinfer").exists()


def test_turns_at_a_terminal(words: str, tmp_path: Path) -> None:
    args = ("-m", words, "-t", "1", "-p", "Ask again", "-r", "User:", "-i", "--color")
    with Process("main", *args, terminal=True, env={"XDG_STATE_HOME": str(tmp_path)}) as process:
        process.wait_for("again again again again")
        process.type("\x03")
        process.wait_for_editor(1)
        process.type("the then\r")
        process.wait_for("User:")  # the editor goes on behind what stands in the line
        process.wait_for_editor(2)
        written = process.out
        process.type("\x03")
        result = process.wait()
    assert result.code == 130
    assert "tokens/s" in result.out
    assert result.out.index("\x1b[33m") < result.out.index("Ask") < result.out.index("\x1b[0m")
    assert written.count("User:") == 2
    assert re.search("User:[^\n]*\r[^\n]*User:", written)  # over the first, not behind it


def test_at_a_terminal_without_a_prompt_it_is_a_chat(words: str, tmp_path: Path) -> None:
    """Where the model has a template; -no-cnv is the way out."""
    env = {"XDG_STATE_HOME": str(tmp_path)}
    with Process("main", "-m", words, "-t", "1", terminal=True, env=env) as process:
        process.wait_for("chat template: the model's own")
        process.wait_for_editor(1)
        process.type("hi\r")
        process.wait_for(ANSWER)
        process.wait_for_editor(2)
        process.type("\x04")
        assert process.wait().code == 0
    for flags in (("-no-cnv",), ("-p", ""), ("-p", "Once upon")):
        with Process("main", "-m", words, "-t", "1", "-n", "2", *flags, terminal=True, env=env) as process:
            result = process.wait()
        assert "chat template" not in result.out
        assert "-n tokens written" in result.out


def test_turns_without_a_prompt_wait_for_the_user(words: str, tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    with Process("main", "-m", words, "-t", "1", "-n", "3", "-i", terminal=True, env=env) as process:
        process.wait_for_editor(1)
        assert STORY not in process.out
        process.type("Once upon\r")
        process.wait_for_editor(2)
        process.type("\x04")
        result = process.wait()
    assert result.code == 0
    assert " 3 tokens" in result.out


def test_stdout_holds_the_text_alone_where_a_plan_is_made() -> None:
    args = ("--vram-budget", "0.07", "--device", "cpu", "--disable-gpu-index", "-t", "1")
    with Process("main", *args, "-p", "Once upon a time", "-n", "2", "--temp", "0") as process:
        result = process.wait()
    result.note("^planned in")
    assert result.code == 0
    assert result.out.startswith("Once upon a time")
    assert result.out.count("\n") == 1
    assert "HiGHS" not in result.err


def test_waiting_for_a_piped_prompt_is_no_part_of_loading(words: str) -> None:
    began = time.monotonic()
    with Process("main", "-m", words, "-t", "1", "-n", "1") as process:
        process.wait_for("seed:")  # loaded
        loaded = time.monotonic()
        time.sleep(0.5)
        process.type("Once")
        process.end_input()
        result = process.wait()
    assert result.out == "Once upon\n"
    assert float(result.note(r"^load time: +([\d.]+) s$")[1]) < loaded - began + 0.02
