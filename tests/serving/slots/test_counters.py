"""Sums and rates."""

import dataclasses

import pytest

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.slots.counters import ServedRequest, Tally
from powerinfer_cli.serving.tasks import CompletionTask
from tests.helpers.toy_engine import ToyEngine
from tests.serving.slots.toy import GREEDY, Driver, ids_of


def test_rates_of_a_request() -> None:
    served = ServedRequest("completion", 1, 0, 30, 10, 5, 100.0, 200.0, "eos", 310.0)
    assert served.prompt_per_second == pytest.approx(200.0)  # the cached ones cost nothing
    assert served.predicted_per_second == pytest.approx(20.0)  # nor does the first that is written
    nothing = dataclasses.replace(served, n_predicted=0, prompt_ms=0.0, predicted_ms=0.0)
    assert (nothing.prompt_per_second, nothing.predicted_per_second) == (0.0, 0.0)


def test_sums() -> None:
    tally = Tally()
    tally.step(0.5, n_prompt=64, n_busy=2, longest=70)
    tally.step(0.25, n_prompt=0, n_busy=1, longest=60)
    tally.ended(5, 2.0)
    tally.ended(0, 0.0)
    assert (tally.n_decode, tally.n_busy_slots, tally.n_tokens_max) == (2, 3, 70)
    assert (tally.prompt_tokens, tally.prompt_seconds) == (64, 0.5)
    assert (tally.predicted_tokens, tally.predicted_steps, tally.predicted_seconds) == (5, 4, 2.0)


def test_a_record_of_each_request() -> None:
    driver = Driver(ToyEngine(n_ctx=64))
    prompt = ids_of("Once upon a time")
    driver.do(CompletionTask(prompt, GREEDY, n_predict=3, label="first"))
    driver.do(CompletionTask(prompt, GREEDY, n_predict=2, label="second"))
    driver.do(CompletionTask(prompt, SamplerOptions(logit_bias={99999: 1.0}), label="third"))
    first, second, third = driver.log
    n = len(prompt)
    assert (first.label, first.stop, first.n_prompt, first.n_cached, first.n_predicted) == ("first", "limit", n, 0, 3)
    assert (second.label, second.id_slot, second.n_cached, second.n_predicted) == ("second", 0, n - 1, 2)
    assert (third.label, third.stop, third.id_slot) == ("third", "error", -1)
    tally = driver.batcher.tally
    assert (tally.prompt_tokens, tally.prompt_tokens_cached, tally.n_decode) == (n + 1, n - 1, 6)
    assert tally.n_tokens_max == n + 2
