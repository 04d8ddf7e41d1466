"""Metrics of several models in one text."""

from powerinfer_cli.serving.http.joined_metrics import joined

ONE = "# HELP tokens Tokens\n# TYPE tokens counter\ntokens 5\n# TYPE busy gauge\nbusy 1\n"
OTHER = '# HELP tokens Tokens\n# TYPE tokens counter\ntokens{slot="0"} 7\n'


def test_lines_of_a_name_are_together_and_carry_their_model() -> None:
    assert joined({"a": ONE, 'b"\n': OTHER}) == (
        '# HELP tokens Tokens\n# TYPE tokens counter\ntokens{model="a"} 5\ntokens{model="b\\"\\n",slot="0"} 7\n'
        '# TYPE busy gauge\nbusy{model="a"} 1\n'
    )


def test_what_is_no_metric_is_left_out() -> None:
    assert joined({"a": "<html>\nno metrics here\n"}) == ""
