"""Other people's words."""

from powerinfer_cli.printable import printable


def test_nothing_steers_a_terminal_or_ends_a_line() -> None:
    assert printable("a\x1b[31m\nb\u2028\u202ec é 字") == "a?[31m?b??c é 字"
    assert printable("a\tb", " ") == "a b"
