"""`powerinfer main -i`, `-if` and `-ins`: turns in one growing text."""

from tests.helpers.main_cli import Result, powerinfer
from tests.helpers.word_model import token_id


def turns(words: str, stdin: str, *args: str) -> Result:
    return powerinfer("main", "-m", words, "-t", "1", *args, stdin=stdin)


def listed(result: Result) -> list[str]:
    return [line.split(" -> ")[1] for line in result.err.splitlines() if " -> " in line]


def test_the_user_goes_on_after_the_reverse_prompt(words: str) -> None:
    result = turns(words, "once and then\n", "-i", "-p", "Now then", "-r", "User:")
    assert result.code == 0
    assert result.out == "Now then User: User:\n"  # what is typed is not repeated


def test_a_prompt_that_ends_with_the_cue_gives_the_user_the_word(words: str) -> None:
    result = turns(words, "then\n", "-i", "-p", "the User:", "-r", "User:")
    assert result.out == "the User: User:\n"


def test_interactive_first(words: str) -> None:
    assert turns(words, "", "-if", "-p", "Once").out == "Once\n"
    assert turns(words, "The caf\n", "-if", "-p", "Once", "-n", "2").out == "Onceé\n"


def test_an_empty_line_passes_the_word_on(words: str) -> None:
    assert turns(words, "\n\n", "-i", "-p", "Once", "-n", "2").out == "Once upon a time there was one\n"


def test_an_empty_first_line_passes_the_word_on(words: str) -> None:
    """Nothing is to be evaluated then."""
    assert turns(words, "\n", "-if", "-p", "Once", "-n", "2").out == "Once upon a\n"
    assert turns(words, "\n", "-i", "-n", "2").out == "Once upon\n"


def test_the_cue_is_written_where_the_text_ends(words: str) -> None:
    result = turns(words, "one\n", "-i", "-p", "The end", "-r", "You:", "-n", "3")
    assert result.out == "The end\nYou: fox.\n"


def test_the_end_token_stays_in_the_text(words: str) -> None:
    """What the user says next comes after it."""
    result = turns(words, "one\n", "-i", "-p", "The end", "-n", "2", "--verbose-prompt")
    assert result.note(r"^prompt: +\d+\.\d+ s, +(\d+) tokens")[1] == str(len(listed(result)) + len(["</s>", "one"]))


def test_prefix_suffix_and_bos(words: str) -> None:
    result = turns(
        words, "upon\n", "-if", "-p", "x", "--in-prefix", "(", "--in-suffix", ")", "--in-prefix-bos", "-n", "0"
    )
    assert result.out == "x()(\n"
    assert result.note(r"^prompt: +\d+\.\d+ s, +(\d+) tokens")[1] == str(
        len(["<s>", " ", "x"]) + len(["<s>", " ", "(", "upon", " ", ")"])
    )


def test_instructions(words: str) -> None:
    result = turns(words, "hello\nhello\n", "-ins", "-n", "9")
    assert result.code == 0
    assert result.out.count("Once upon a time there was one fox.\n") == 2


def test_words_that_do_not_fit_are_refused_and_the_turn_is_still_the_users(words: str) -> None:
    result = turns(words, "one " * 60 + "\nonce\n", "-if", "-p", "Once", "-c", "40", "-n", "1")
    assert result.code == 0
    result.note(r"^error: context full: 2 tokens and \d+ more do not fit the 40 of -c: .*, or --ctx-shift$")


def test_a_full_context_ends_the_session(words: str) -> None:
    result = turns(words, "one\n", "-i", "-p", "Once", "-c", "12")
    assert result.code == 0
    result.note(r"^\[context full: 12 tokens; give a larger -c, or --ctx-shift\]$")


def test_special_words_of_the_user_are_only_words(words: str) -> None:
    result = turns(words, "<|user|>\n", "-if", "-p", "x", "-n", "0")
    assert int(result.note(r"^prompt: +\d+\.\d+ s, +(\d+) tokens")[1]) > len(["<s>", " ", "x", "<|user|>"])
    assert token_id("<|user|>") < 10
