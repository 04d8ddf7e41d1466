"""`powerinfer main` with a prompt: what is written, where, how much of it, and what is told."""

from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.opening import bundled as room
from tests.helpers.main_cli import Result, powerinfer
from tests.helpers.word_model import STORY, token_id, with_metadata, word_model

STORY_TOKENS = 10


@pytest.fixture
def main(words: str) -> "Main":
    return Main(words)


class Main:
    """`powerinfer main -m MODEL -t 1 ...`"""

    def __init__(self, model: str) -> None:
        self.model = model

    def __call__(self, *args: str, stdin: str | bytes = b"") -> Result:
        return powerinfer("main", "-m", self.model, "-t", "1", *args, stdin=stdin)


def tokens(result: Result, phase: str) -> int:
    return int(result.note(rf"^{phase}: .* (\d+) tokens,")[1])


def test_text_goes_to_stdout_and_the_rest_to_stderr(main: Main) -> None:
    result = main("-p", "Once upon", "-n", "8")
    assert (result.code, result.out) == (0, STORY)
    result.note(r"^model: +words \(llama, sparse\)")
    result.note(r"^\[-n tokens written\]$")
    result.note(r"^load time: +\d+\.\d\d s$")
    result.note(r"^prompt: +\d+\.\d\d s, +3 tokens, +\d+\.\d\d tokens/s$")
    result.note(r"^generation: +\d+\.\d\d s, +8 tokens, +\d+\.\d\d tokens/s$")
    result.note(r"^active neurons: +\d+\.\d% mean")
    result.note(r"^peak memory: +\d+ MiB$")


def test_a_mixture_is_told_as_one() -> None:
    experts = Main(str(Path(__file__).parents[2] / "data" / "storyteller-experts.gguf"))
    experts("-p", "Once", "-n", "1").note(r"^model: +Storyteller with experts \(qwen3moe, experts\)")


def test_one_token_is_counted_though_it_has_no_rate(main: Main) -> None:
    """It follows from the prompt's evaluation."""
    main("-p", "Once upon", "-n", "1").note(r"^generation: +\d+\.\d\d s, +1 tokens$")
    main("-p", "Once upon", "-n", "0").note(r"^generation: +0\.00 s, +0 tokens$")


def test_what_is_piped_in_is_the_prompt(main: Main, tmp_path: Path) -> None:
    assert main("-n", "6", stdin="Once upon\n").out == main("-p", "Once upon", "-n", "6").out
    assert main("-n", "6", "-f", "-", stdin="Once upon\n").out == main("-p", "Once upon", "-n", "6").out
    (tmp_path / "other.txt").write_text("Once")
    file = str(tmp_path / "other.txt")
    assert main("-n", "2", "-f", file, stdin="Once upon").out == main("-p", "Once", "-n", "2").out
    assert main("-n", "2", "-p", "Once", stdin="Once upon").out == main("-p", "Once", "-n", "2").out


def test_without_a_prompt_the_text_begins_by_itself(main: Main) -> None:
    assert main("-n", "10").out == STORY


@pytest.mark.parametrize(
    "prompt", ["Once upon", " Once upon", "  Once upon", "a\tb\n", "\n\nOnce", "Gr\u00fc\u00dfe \U0001f98a"]
)
def test_the_prompt_is_shown_as_it_was_given(main: Main, prompt: str) -> None:
    assert main("-p", prompt, "-n", "0").out == prompt + ("" if prompt.endswith("\n") else "\n")


def test_no_display_prompt(main: Main) -> None:
    assert main("-p", "Once upon", "-n", "3", "--no-display-prompt").out == " a time there\n"


@pytest.mark.parametrize(("n", "text"), [("0", "Once\n"), ("1", "Once upon\n"), ("4", "Once upon a time there\n")])
def test_n_predict(main: Main, n: str, text: str) -> None:
    assert main("-p", "Once", "-n", n).out == text


def test_the_text_ends_where_the_model_ends_it(main: Main) -> None:
    result = main("-p", "The end")
    assert result.out == "The end\n"
    result.note(r"^\[end of text\]$")


def test_ignore_eos(main: Main) -> None:
    result = main("-p", "The end", "--ignore-eos", "-c", "20")
    assert len(result.out) > len("The end\n")
    result.note(r"^\[context full: 20 tokens; give a larger -c, or --ctx-shift to go on\]$")


@pytest.mark.parametrize("n", ["-1", "-2"])
def test_a_full_context_ends_the_text(main: Main, n: str) -> None:
    shift = ["--ctx-shift"] if n == "-2" else []
    result = main("-n", n, "-c", "21", *shift)
    # 1 token of prompt; 20 are evaluated; one more is written, for which there is no room.
    assert result.out == STORY + " " + STORY + " Once\n"
    assert result.code == 0
    result.note(r"^\[context full: 21 tokens")


def test_context_shift_goes_on(main: Main) -> None:
    result = main("-n", "100", "-c", "21", "--ctx-shift")
    assert result.out == " ".join([STORY] * 10)
    assert tokens(result, "generation") == 100


def test_prompt_from_a_file(main: Main, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Once upon\n")
    assert main("-f", str(file), "-n", "2").out == "Once upon a time\n"


def test_of_two_prompts_the_later_counts(main: Main, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Once upon")
    assert main("-p", "then", "-f", str(file), "-n", "0").out == "Once upon\n"
    assert main("-f", str(file), "-p", "then", "-n", "0").out == "then\n"


def test_a_binary_file_is_a_prompt_too(main: Main, tmp_path: Path) -> None:
    file = tmp_path / "prompt.bin"
    file.write_bytes(bytes(range(256)) * 4)
    result = main("-f", str(file), "-n", "1", "-c", "3000", "--no-escape")
    assert result.code == 0
    assert result.out.startswith("\x00\x01\x02")


def test_a_byte_that_is_not_utf8_is_one_byte(main: Main, tmp_path: Path) -> None:
    """As the file holds it, as a command line brings it, as an escape writes it."""
    file = tmp_path / "latin-1.txt"
    file.write_bytes(b"Once\xfc")
    for prompt in (["-f", str(file)], ["-p", "Once\udcfc"], ["-p", r"Once\xfc"]):
        result = main(*prompt, "-n", "0", "--verbose-prompt")
        assert result.out == "Once\ufffd\n"
        result.note(r"^prompt: 3 tokens")
        result.note(rf"^ +{token_id('<0xFC>')} -> ")


def test_escapes_and_none(main: Main) -> None:
    assert main("-p", r"Once\x20upon\n", "-n", "0").out == "Once upon\n"
    assert main("-p", r"Once\nupon", "-n", "0", "--no-escape").out == "Once\\nupon\n"
    assert main("-p", r"Once", "-r", r"fox.\n").out == STORY


def test_reverse_prompts_end_the_text(main: Main) -> None:
    result = main("-p", "then", "-r", "nothing", "-r", "User:")  # over three tokens
    assert result.out == "then User:\n"
    result.note(r"^\[reverse prompt\]$")
    assert main("-r", "there was").out == "Once upon a time there was\n"


def test_a_reverse_prompt_may_be_a_control_token(main: Main) -> None:
    bias = f"{token_id('<|user|>')}+100"
    result = main("-p", "Once", "-r", "<|user|>", "-n", "5", "-l", bias)
    assert result.out == "Once\n"
    result.note(r"^\[reverse prompt\]$")


def test_a_character_of_two_tokens_is_written_whole(main: Main) -> None:
    assert main("-p", "The caf").out == "The café!\n"
    assert main("-p", "The caf", "-n", "1").out == "The caf\n"  # not half a character


def test_special_tokens_are_shown_on_demand(main: Main) -> None:
    assert main("-p", "<|user|>Once", "-n", "1").out == "Once upon\n"
    assert main("-p", "<|user|>Once", "-n", "1", "--special").out == "<s><|user|> Once upon\n"


def test_verbose_prompt_lists_tokens(main: Main) -> None:
    result = main("-p", "Once", "-n", "1", "--verbose-prompt", "--keep", "-1")
    result.note(r"^prompt: 2 tokens, of which 2 are kept when the context shifts$")
    result.note(r"^ +1 -> '<s>'$")
    result.note(rf"^ +{token_id('▁Once')} -> ' Once'$")


def test_log_disable_leaves_the_text_and_errors(main: Main) -> None:
    result = main("-p", "Once", "-n", "1", "--log-disable")
    assert (result.code, result.out, result.err) == (0, "Once upon\n", "")
    assert (
        main("-f", "/nowhere", "--log-disable").err
        == "error: /nowhere: cannot read the text: No such file or directory\n"
    )


def test_colour_is_for_terminals_unless_it_is_on(main: Main) -> None:
    for color in (["--color"], ["-co"], ["--color", "auto"], ["--color=off"], ["-co", "off"]):
        assert main(*color, "-p", "Once", "-n", "1").out == "Once upon\n"
    assert main("-p", "Once", "-n", "1", "--color").out == "Once upon\n"
    for color in (["--color", "on"], ["-co", "on"], ["--color=on"]):
        assert main(*color, "-p", "Once", "-n", "1").out == "\x1b[33mOnce\x1b[0m upon\n\x1b[0m"


def test_the_same_seed_writes_the_same_text(main: Main) -> None:
    chance = ("-p", "z", "-n", "12", "--temp", "5", "--top-k", "0")
    seven = main(*chance, "-s", "7")
    assert seven.out == main(*chance, "-s", "7", "-b", "1").out
    assert seven.out != main(*chance, "-s", "8").out
    seven.note(r"^seed: +7$")


def test_a_random_seed_is_told_and_can_be_used_again(main: Main) -> None:
    chance = ("-p", "z", "-n", "12", "--temp", "5", "--top-k", "0")
    first, second = main(*chance), main(*chance, "-s", "-1")
    assert first.out != second.out
    seed = first.note(r"^seed: +(\d+)$")[1]
    assert main(*chance, "-s", seed).out == first.out


def test_engine_flags_reach_the_engine(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    from powerinfer_cli.kernels.jit.team import Program, Team
    from powerinfer_cli.runtime import Engine

    work: list[int | str] = []
    forward, run = Engine._forward, Team.run

    def spied_forward(engine: Engine, parts: list[tuple[int, list[int]]], *more: Any, **asked: Any) -> object:
        work.append(f"{sum(len(ids) for _, ids in parts)} tokens")
        return forward(engine, parts, *more, **asked)

    def spied_run(team: Team, program: Program, threads: int = 0) -> None:
        work.append(threads)
        run(team, program, threads)

    monkeypatch.setattr(Engine, "_forward", spied_forward)
    monkeypatch.setattr(Team, "run", spied_run)
    result = main("-p", "Once upon a time there", "-n", "2", "-ub", "4", "-tb", "2", "-c", "64")
    evaluated = work[work.index("4 tokens") :]
    n_layer = evaluated.index("2 tokens") - 1
    assert evaluated == ["4 tokens", *[2] * n_layer, "2 tokens", *[2] * n_layer, 1, "1 tokens", 1]
    result.note(r"^context: 64 tokens \(trained on 128\)$")
    result.note(r"^cpu:     1 thread \(2 for prompts\), \w+")


def test_the_least_of_the_two_batch_sizes_counts(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    from powerinfer_cli.runtime import Engine

    batches: list[int] = []
    forward = Engine._forward
    monkeypatch.setattr(
        Engine,
        "_forward",
        lambda engine, parts, *more, **asked: (
            batches.append(len(parts[0][1])) or forward(engine, parts, *more, **asked)
        ),
    )
    assert main("-p", "Once upon a time there", "-n", "1", "-b", "3").code == 0
    assert batches == [3, 3]


@pytest.mark.parametrize(
    "flags",
    [
        ["-ctk", "f32", "-ctv", "f32"],
        ["--no-repack"],
        ["-nr", "--mlock"],
        ["--swa-full"],
        ["--numa", "isolate"],
        ["--cpu-strict", "1"],
        ["--reference"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("movable")
def test_the_text_is_the_same_however_it_is_computed(main: Main, flags: list[str]) -> None:
    usual, other = (main("-p", "Once upon a time", "-n", "8", *more) for more in ([], flags))
    assert (other.code, other.out) == (0, usual.out)
    assert ("plain float32" in other.err) == ("--reference" in flags)


def test_a_context_beyond_the_training_is_warned_of(main: Main) -> None:
    main("-c", "200", "-n", "1").note(r"^warning: the model was trained on 128 tokens of context only$")


def test_flags_without_effect_are_told(main: Main) -> None:
    result = main("-n", "1", "--in-prefix", "x", "--multiline-input")
    assert result.code == 0
    result.note(r"^warning: --in-prefix has no effect here$")
    result.note(r"^warning: --multiline-input has no effect here$")


def test_without_m_the_bundled_model_runs(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    monkeypatch.setattr(room, "files", lambda package: tmp_path)
    assert "reinstall powerinfer, or give -m FILE" in powerinfer("main").error
    word_model().write(bundled / room.BUNDLED)
    assert powerinfer("main", "-n", "10", "-t", "1").out == STORY


def test_the_eos_that_closes_texts_does_not_close_the_prompt(tmp_path: Path) -> None:
    model = with_metadata(word_model(), ggml__add_eos_token=True).write(tmp_path / "eos.gguf")
    assert Main(str(model))("-p", "Once", "-n", "2").out == "Once upon a\n"


def test_without_bos_there_is_nothing_to_continue(tmp_path: Path) -> None:
    model = with_metadata(word_model(), ggml__add_bos_token=False).write(tmp_path / "bos.gguf")
    assert Main(str(model))("-n", "9").out.startswith("Once upon")  # BOS all the same: a context cannot be empty
    assert Main(str(model))("-p", "Once", "-n", "1", "--verbose-prompt").note(r"^prompt: 1 tokens")
