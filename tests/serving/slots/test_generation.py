"""One completion: which text is shown when, with which tokens and chances, and what ends it."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.slots.choosing import Chooser, is_plain_greedy, likeliest, log_softmax
from powerinfer_cli.serving.slots.generation import Generation
from powerinfer_cli.serving.slots.showing import IndentWatch, Showing, ShownText
from powerinfer_cli.serving.tasks import CompletionTask, Stop
from tests.serving.slots.toy import GREEDY, ids_of, tokenizer

N_VOCAB = 2816
PROMPT = ids_of("Once upon")


def generation(task: CompletionTask, times: Sequence[float] = ()) -> Generation:
    ticking = iter(times)
    chooser = Chooser(task, tokenizer(), list, N_VOCAB, 512)
    return Generation(task, tokenizer(), chooser, lambda: next(ticking, 0.0))


def one_hot(token: int) -> np.ndarray:
    logits = np.zeros(N_VOCAB, np.float32)
    logits[token] = 50.0
    return logits


def write(task: CompletionTask, ids: Sequence[int], times: Sequence[float] = ()) -> tuple[Generation, list[ShownText]]:
    written = generation(task, times)
    shown = []
    for token in ids:
        shown.append(written.advance(one_hot(token)))
        if written.stop is not None:
            break
    return written, shown


def whole(shown: Sequence[ShownText]) -> str:
    return "".join(one.text for one in shown)


def task_of(**changes: object) -> CompletionTask:
    return CompletionTask(PROMPT, **({"sampler": GREEDY} | changes))


def test_a_character_of_several_tokens_comes_whole_with_all_of_them() -> None:
    ids = ids_of("\u00e9\u20ac\U0001f600")
    shown = write(task_of(), ids)[1]
    assert whole(shown) == " \u00e9\u20ac\U0001f600"
    assert [token for one in shown for token in one.tokens] == list(ids)
    for one in shown:
        assert bool(one.text) == bool(one.tokens)


def test_an_incomplete_character_at_the_end_is_left_out() -> None:
    byte = next(i for i in range(N_VOCAB) if tokenizer().piece(i) == b"\xe2")
    written, shown = write(task_of(n_predict=1), [byte])
    assert (written.stop, shown[0].text, shown[0].tokens) == (Stop.LIMIT, "", [byte])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["a", "b", "ab", " the", "nd", "e", "\n"]), max_size=12), st.data())
def test_text_before_a_stop_string_is_shown_whatever_the_tokens(parts: list[str], data: st.DataObject) -> None:
    pieces = {tokenizer().piece(i): i for i in range(3, N_VOCAB)}
    ids = [pieces[part.encode()] for part in parts if part.encode() in pieces]
    full = b"".join(tokenizer().piece(i) for i in ids).decode()
    start = data.draw(st.integers(0, max(0, len(full) - 1)))
    stop = full[start : start + data.draw(st.integers(1, 4))] or "zzz"
    written, shown = write(task_of(stop=(stop, "never")), ids)
    text = whole(shown) + whole([written._showing.flush()] if written.stop is None else [])
    assert text == full.split(stop)[0]
    assert (written.stop is Stop.WORD) == (stop in full)
    told = [token for one in shown for token in one.tokens]
    assert ids[: len(told)] == told
    n_before = len(b"".join(tokenizer().piece(i) for i in told).decode())
    assert n_before >= len(whole(shown))
    assert n_before - len(tokenizer().piece(told[-1])) < len(text) if told else True


def test_held_text_comes_when_it_is_no_stop_string() -> None:
    ids = [next(i for i in range(N_VOCAB) if tokenizer().piece(i) == one) for one in (b"a", b"b", b"c")]
    _, shown = write(task_of(stop=("abd",)), ids)
    assert [(one.text, one.tokens) for one in shown] == [("", []), ("", []), ("abc", ids)]


def test_held_text_comes_at_the_limit() -> None:
    ids = [next(i for i in range(N_VOCAB) if tokenizer().piece(i) == one) for one in (b"a", b"b")]
    written, shown = write(task_of(stop=("abd",), n_predict=2), ids)
    assert (whole(shown), written.stop, written.stopping_word) == ("ab", Stop.LIMIT, "")


@pytest.mark.parametrize(("special", "preserved"), [(False, False), (True, False), (False, True)])
def test_control_tokens(special: bool, preserved: bool) -> None:
    control = tokenizer().id_of("<|user|>")
    assert control is not None
    expected = "<|user|>" if special or preserved else ""
    task = task_of(special=special, preserved=frozenset([control] if preserved else []), n_probs=1)
    _, shown = write(task, [control])
    assert (shown[0].text, shown[0].tokens) == (expected, [control])
    assert shown[0].chances[0].chosen.piece == expected.encode()


def test_the_space_before_the_first_word() -> None:
    ids = ids_of("bear bear")
    assert whole(write(task_of(), ids)[1]) == " bear bear"
    assert whole(write(task_of(strip_first_space=True), ids)[1]) == "bear bear"


def test_time_ends_the_text_behind_a_line() -> None:
    line, word = (next(i for i in range(N_VOCAB) if tokenizer().piece(i) == one) for one in (b"\n", b" the"))
    ids = [line, word, line, word, word, word]
    written, _ = write(task_of(t_max_predict_ms=50), ids, [0.0, 0.01, 0.04, 0.06, 0.07, 0.08])
    assert (written.stop, written.n_predicted) == (None, 6)
    written, _ = write(task_of(t_max_predict_ms=50), [*ids, line, word], [0.0, 0.01, 0.04, 0.06, 0.07, 0.08, 0.09])
    assert (written.stop, written.n_predicted) == (Stop.LIMIT, 7)
    assert written.predicted_ms == pytest.approx(90)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n    y = 2\n  z", "x = 1\n    y = 2\n  "),
        ("x\n\ty\n    z", "x\n\t"),
        ("  x\n    y", "  x\n    y"),
        ("x\n\n    y", "x\n"),
    ],
)
def test_a_line_with_too_little_indentation_ends_the_text(text: str, expected: str) -> None:
    for cut in range(1, 4):
        watch, shown = IndentWatch(4), ""
        for start in range(0, len(text), cut):
            part = text[start : start + cut]
            n = watch.push(part)
            shown += part[:n]
            if n < len(part):
                break
        assert shown == expected


def test_indentation_in_a_completion() -> None:
    ids = ids_of("a\n    b\nc d e")
    written, shown = write(task_of(n_indent=2), ids)
    assert (whole(shown), written.stop) == (" a\n    b\n", Stop.LIMIT)


def test_chances_before_sampling_are_those_of_all_logits() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal(N_VOCAB).astype(np.float32) * 4
    options = SamplerOptions(seed=3, temp=1.5, top_k=5)
    shown = generation(task_of(sampler=options, n_probs=4)).advance(logits)
    wanted = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64))
    [chances] = shown.chances
    assert [one.id for one in chances.top] == np.argsort(-wanted)[:4].tolist()
    assert [one.logprob for one in chances.top] == pytest.approx(np.sort(wanted)[::-1][:4])
    assert chances.chosen.logprob == pytest.approx(wanted[chances.chosen.id])
    assert chances.chosen.piece == tokenizer().piece(chances.chosen.id)


def test_chances_after_sampling_are_those_that_were_left() -> None:
    logits = np.random.default_rng(1).standard_normal(N_VOCAB).astype(np.float32) * 4
    options = SamplerOptions(seed=3, temp=1.5, top_k=3, top_p=1.0, min_p=0.0)
    shown = generation(task_of(sampler=options, n_probs=10, post_sampling_probs=True)).advance(logits)
    [chances] = shown.chances
    assert len(chances.top) == 3
    assert sum(math.exp(one.logprob) for one in chances.top) == pytest.approx(1.0)
    assert chances.chosen in chances.top


class Only:
    """Lets one token be written again and again, so many times."""

    def __init__(self, token: int, n: int) -> None:
        self._token, self._left = token, n

    @property
    def finished(self) -> bool:
        return self._left == 0

    def allows(self, token: int) -> bool:
        return token == (self._token if self._left else tokenizer().eos_id)

    def allowed(self) -> np.ndarray:
        return np.array([self.allows(i) for i in range(N_VOCAB)])

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self._left -= 1


@pytest.mark.parametrize("post", [False, True])
def test_a_constraint_rules(post: bool) -> None:
    task = task_of(constraint=lambda: Only(300, 3), n_probs=2, post_sampling_probs=post)
    written, shown = write(task, [7, 8, 9, 10, 11, 12])
    assert written.stop is Stop.END
    assert [token for one in shown for token in one.tokens] == [300, 300, 300, tokenizer().eos_id]
    if post:
        assert all(one.chances[0].chosen.logprob == 0.0 for one in shown)


def test_a_complete_text_ends_where_no_token_may_say_so() -> None:
    options = SamplerOptions(temp=0.0, ignore_eos=True)
    written = write(task_of(sampler=options, constraint=lambda: Only(300, 2)), [7, 8, 9])[0]
    assert (written.stop, written.n_predicted) == (Stop.END, 2)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(
        [
            *({}, {"top_k": 2}, {"top_p": 0.3}, {"min_p": 1.0}, {"tfs_z": 0.3}, {"top_n_sigma": 0.5}),
            *({"ignore_eos": True}, {"logit_bias": {1: 2.0, 5: float("-inf"), 300: 4.0}}),
        ]
    ),
)
def test_the_shortcut_for_greedy_is_what_the_sampler_chooses(seed: int, changes: dict[str, float]) -> None:
    options = SamplerOptions(**({"temp": 0.0} | changes))
    assert is_plain_greedy(options)
    logits = np.round(np.random.default_rng(seed).standard_normal(N_VOCAB) * 2).astype(np.float32)  # many are equal
    chooser = Chooser(CompletionTask(PROMPT, options), tokenizer(), list, N_VOCAB, 512)
    assert chooser.choose(logits)[0] == chooser.sampler.sample(logits)


@pytest.mark.parametrize(
    "options",
    [
        SamplerOptions(),
        SamplerOptions(temp=0.0, penalty_repeat=1.1),
        SamplerOptions(temp=0.0, penalty_freq=0.1),
        SamplerOptions(temp=0.0, penalty_present=0.1),
        SamplerOptions(temp=0.0, dry_multiplier=0.5),
        SamplerOptions(temp=0.0, mirostat=2),
        SamplerOptions(temp=0.0, samplers=("top_k",)),
        SamplerOptions(temp=0.0, typ_p=0.5),
        SamplerOptions(temp=0.0, xtc_probability=0.5),
        SamplerOptions(temp=0.0, dynatemp_range=0.5),
        SamplerOptions(temp=0.0, samplers=("temperature", "adaptive_p")),
    ],
)
def test_no_shortcut_where_more_is_asked_for(options: SamplerOptions) -> None:
    assert not is_plain_greedy(options)


def test_repetition_counts_the_prompt() -> None:
    logits = one_hot(PROMPT[0])
    logits[301] = 49.0
    options = SamplerOptions(temp=0.0, penalty_repeat=1.5)
    assert generation(CompletionTask(PROMPT, options)).advance(logits).tokens == [301]
    short = SamplerOptions(temp=0.0, penalty_repeat=1.5, penalty_last_n=1, dry_penalty_last_n=1)
    assert generation(CompletionTask((*PROMPT, 500), short)).advance(logits).tokens == [PROMPT[0]]


def test_the_same_seed_writes_the_same() -> None:
    logits = [np.random.default_rng(i).standard_normal(N_VOCAB).astype(np.float32) for i in range(8)]
    texts = []
    for seed in (5, 5, 6):
        written = generation(task_of(sampler=SamplerOptions(seed=seed, temp=2.0, top_k=0, min_p=0.0, top_p=1.0)))
        texts.append([written.advance(one).tokens for one in logits])
        assert written.seed == seed
    assert texts[0] == texts[1] != texts[2]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_likeliest(values: list[int], n: int) -> None:
    logits = np.array(values, np.float32)
    found = likeliest(log_softmax(logits), n).tolist()
    assert found == sorted(range(len(values)), key=lambda i: (-values[i], i))[:n]


def test_showing_ends_only_once() -> None:
    showing = Showing(tokenizer(), task_of(stop=("a",)))
    token = next(i for i in range(N_VOCAB) if tokenizer().piece(i) == b"a")
    assert not showing.push(token, None)
    assert showing.ended
    assert not showing.flush()
