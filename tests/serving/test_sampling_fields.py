import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.forms import Form
from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.routes.tokens import DetokenizeRequest, TokenizeRequest
from powerinfer_cli.serving.schemas.infill import InfillRequest
from powerinfer_cli.serving.schemas.sampling import SamplingFields, copies_of
from powerinfer_cli.serving.tasks import CompletionTask
from tests.serving.fake_service import FakeService, bundled_tokenizer

OPTIONS = ServerOptions(sampler=SamplerOptions(temp=0.25, seed=7), n_predict=99)
SERVICE = FakeService(lambda task: (), options=OPTIONS)


def make(**fields: Any) -> CompletionTask:
    return SamplingFields.model_validate(fields).task((1, 2), SERVICE)


def test_what_is_absent_or_null_is_the_servers() -> None:
    for fields in ({}, dict.fromkeys(SamplingFields.model_fields)):
        task = make(**fields)
        assert task == CompletionTask((1, 2), sampler=OPTIONS.sampler, n_predict=99)


def test_every_sampler_field_arrives() -> None:
    fields: dict[str, tuple[str, Any]] = {
        "seed": ("seed", 5),
        "temperature": ("temp", 1.5),
        "dynatemp_range": ("dynatemp_range", 0.5),
        "dynatemp_exponent": ("dynatemp_exponent", 2),
        "top_k": ("top_k", 3),
        "top_p": ("top_p", 0.5),
        "min_p": ("min_p", 0.25),
        "top_n_sigma": ("top_n_sigma", 2.5),
        "xtc_probability": ("xtc_probability", 0.5),
        "xtc_threshold": ("xtc_threshold", 0.3),
        "typical_p": ("typ_p", 0.7),
        "tfs_z": ("tfs_z", 0.9),
        "repeat_last_n": ("penalty_last_n", 12),
        "repeat_penalty": ("penalty_repeat", 1.25),
        "frequency_penalty": ("penalty_freq", 0.5),
        "presence_penalty": ("penalty_present", -0.5),
        "dry_multiplier": ("dry_multiplier", 0.8),
        "dry_base": ("dry_base", 1.5),
        "dry_allowed_length": ("dry_allowed_length", 4),
        "dry_penalty_last_n": ("dry_penalty_last_n", 128),
        "dry_sequence_breakers": ("dry_sequence_breakers", ["x"]),
        "mirostat": ("mirostat", 2),
        "mirostat_tau": ("mirostat_tau", 4),
        "mirostat_eta": ("mirostat_eta", 0.2),
        "adaptive_target": ("adaptive_target", 0.5),
        "adaptive_decay": ("adaptive_decay", 0.5),
        "min_keep": ("min_keep", 2),
        "ignore_eos": ("ignore_eos", True),
        "samplers": ("samplers", ["top_k", "temperature"]),
        "logit_bias": ("logit_bias", {"3": 1.5}),
    }
    sampler = make(**{name: value for name, (_, value) in fields.items()}).sampler
    expected = dict(fields.values())
    expected |= {"dry_sequence_breakers": ("x",), "samplers": ("top_k", "temperature"), "logit_bias": {3: 1.5}}
    assert set(vars(sampler)) == set(expected)
    assert vars(sampler) == expected


def test_every_task_field_arrives() -> None:
    task = make(
        n_keep=3, n_discard=4, n_indent=5, t_max_predict_ms=6, stop=["a", ""], cache_prompt=False, id_slot=2,
        n_probs=8, post_sampling_probs=True, return_progress=True, stream=True, preserved_tokens=["</s>", "two words"],
    )  # fmt: skip
    assert (task.n_keep, task.n_discard, task.n_indent, task.t_max_predict_ms) == (3, 4, 5, 6)
    assert (task.stop, task.cache_prompt, task.id_slot) == (("a",), False, 2)
    assert (task.n_probs, task.post_sampling_probs, task.return_progress) == (8, True, True)
    assert task.preserved == {2}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n_predict": 4, "max_tokens": 9}, 4),
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_tokens": 9.0}, 9),
        ({"n_predict": None, "max_tokens": 9}, 9),
        ({"n_predict": 0}, 0),
        ({"n_predict": -1}, 99),
    ],
)
def test_the_limit_by_its_names(fields: dict[str, Any], expected: int) -> None:
    assert make(**fields).n_predict == expected


@pytest.mark.parametrize(
    ("fields", "expected"), [({"logprobs": 3}, 3), ({"n_probs": 2, "logprobs": 3}, 2), ({"logprobs": True}, 1), ({}, 0)]
)
def test_probabilities_by_their_names(fields: dict[str, Any], expected: int) -> None:
    assert make(**fields).n_probs == expected


def test_stop_is_one_or_several() -> None:
    assert make(stop="a").stop == ("a",)
    assert SamplingFields(stop=["a", "b"]).task((1,), SERVICE, stop=("c",)).stop == ("a", "b", "c")


def test_copies_have_seeds_of_their_own_and_no_slot() -> None:
    fields = SamplingFields(seed=10, id_slot=1, n=3)
    tasks = copies_of(fields.task((1,), SERVICE), fields.copies)
    assert [(task.sampler.seed, task.id_slot) for task in tasks] == [(10, 1), (11, -1), (12, -1)]
    for seed, last in ((-1, -1), (2**32 - 1, -1), (2**32 - 2, 2)):
        assert copies_of(make(seed=seed), 4)[3].sampler.seed == last


@pytest.mark.parametrize(
    ("field", "given", "told"),
    [
        ("top_k", -5, 0),
        ("top_p", 1.5, 1.0),
        ("min_p", -1, 0.0),
        ("typical_p", 2.0, 1.0),
        ("tfs_z", 1.5, 1.0),
        ("temperature", -2.0, 0.0),
        ("dynatemp_range", -1.0, 0.0),
        ("mirostat", 7, 2),
    ],
)
def test_values_outside_are_moved_inside_as_llama_server_does(field: str, given: float, told: float) -> None:
    own = {"temperature": "temp", "typical_p": "typ_p"}
    assert vars(make(**{field: given}).sampler)[own.get(field, field)] == told


def test_a_dry_base_that_cannot_be_is_the_servers() -> None:
    assert make(dry_base=0.5).sampler.dry_base == OPTIONS.sampler.dry_base


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["top_k", "Temp", "infill", "no such", "typ-p"], ("top_k", "temperature", "typ_p")),
        ("kt?p", ("top_k", "temperature", "top_p")),
        ([], ()),
        ("", ()),
    ],
)
def test_samplers_keep_their_order(value: Any, expected: tuple[str, ...]) -> None:
    assert make(samplers=value).sampler.samplers == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "0.5"},
        {"temperature": True},
        {"temperature": math.nan},
        {"top_p": math.inf},
        {"n_predict": "5"},
        {"n_predict": -2},
        {"n_predict": 1.5},
        {"max_tokens": 2**31},
        {"top_k": [1]},
        {"seed": 2**64},
        {"stop": 5},
        {"stop": ["a", 1]},
        {"stop": ["a"] * 2000},
        {"ignore_eos": 1},
        {"stream": "yes"},
        {"n": 0},
        {"lora": [{"id": 0, "scale": 1.0}]},
        {"json_schema": "x"},
        {"grammar": {}},
        {"dry_sequence_breakers": []},
        {"adaptive_decay": 1.0},
        {"samplers": [3]},
    ],
)
def test_wrong_types_and_values_name_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        SamplingFields.model_validate(fields)
    assert {error["loc"][0] for error in caught.value.errors()} == set(fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"typical_p": -1}, "Field 'typical_p' must be from 0 to 1, got -1"),
        ({"repeat_penalty": 0}, "Field 'repeat_penalty' must be greater than 0"),
        ({"temperature": 1e300}, "Field 'temperature' must be a finite number"),
        ({"mirostat_tau": -1}, "Field 'mirostat_tau' must"),
        ({"logit_bias": [[1, 1e300]]}, "Field 'logit_bias': the bias of token 1"),
        ({"grammar": "bad"}, "Field 'grammar': line 1"),
        ({"samplers": ["typ;top_k;typ"] * 2}, "Field 'samplers': typ_p must be there at most 2 times, got 4"),
    ],
)
def test_values_without_a_meaning_name_the_field(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(APIError, match=words) as caught:
        make(**fields)
    assert caught.value.status == 400


def test_breakers_are_text_that_a_vocabulary_can_have() -> None:
    words = make(dry_sequence_breakers=["\ud800.", "é"]).sampler.dry_sequence_breakers
    assert words == ("?.", "é")
    with pytest.raises(ValidationError):
        SamplingFields.model_validate({"dry_sequence_breakers": ["."] * 65})


def test_samplers_are_no_more_than_a_step_has_time_for() -> None:
    for value in ("k" * 65, ["top_k"] * 65, ["k" * 65]):
        with pytest.raises(ValidationError):
            SamplingFields.model_validate({"samplers": value})
    assert make(samplers=["typ", "top-k", "typ_p", "no such"]).sampler.samplers == ("typ_p", "top_k", "typ_p")
    assert make(samplers="kpkp").sampler.samplers == ("top_k", "top_p") * 2
    with pytest.raises(APIError, match="top_p"):
        make(samplers="kpkpp")


def test_millions_of_wrong_values_are_one_error() -> None:
    wrong: list[tuple[type[BaseModel], str]] = [
        (TokenizeRequest, "content"),
        (DetokenizeRequest, "tokens"),
        (InfillRequest, "input_prefix"),
    ]
    for model, field in wrong:
        with pytest.raises(ValidationError) as caught:
            model.model_validate({field: [1.5] * 1000, "input_suffix": ""})
        assert caught.value.error_count() < 6


def test_grammars() -> None:
    assert make(grammar="root ::= x", json_schema={"type": "array"}).constraint == ("gbnf", "root ::= x")
    assert make(json_schema={"type": "array"}).constraint == ("schema", {"type": "array"})
    assert make(json_schema={}).constraint == ("schema", {"type": "object"})
    assert make(grammar="").constraint is None


def test_the_servers_form_is_that_of_requests_that_ask_for_none() -> None:
    service = FakeService(lambda task: (), options=ServerOptions(form=Form(grammar="root ::= y")))

    def constraint(**fields: Any) -> Any:
        return SamplingFields.model_validate(fields).task((1,), service).constraint

    assert constraint() == ("gbnf", "root ::= y")
    assert constraint(grammar="root ::= x") == ("gbnf", "root ::= x")
    assert constraint(json_schema={"type": "array"}) == ("schema", {"type": "array"})


THE = bundled_tokenizer().encode("Once upon", add_special=False, parse_special=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[5, -1.5], [6, False], [5, 0.5]], {5: -1.0, 6: -math.inf}),
        ([["Once upon", 2]], dict.fromkeys(THE, 2.0)),
        ({"5": 1, "Once upon": False}, {5: 1.0, **dict.fromkeys(THE, -math.inf)}),
        ([[10**9, 1], [-1, 1]], {}),
        ({"123456789": 1}, {}),
        ([], {}),
    ],
)
def test_logit_bias(value: Any, expected: dict[int, float]) -> None:
    assert make(logit_bias=value).sampler.logit_bias == expected


BAD_BIASES = [5, "x", [5], [[5]], [[5, "x"]], [[5, True]], [[None, 1]], [[5, 1, 1]], {"5": None}, [[5, 10**400]]]


@pytest.mark.parametrize(
    ("seed", "taken"), [(2**40 + 5, 5), (-5, 2**32 - 5), (2**64 - 1, -1), (-1, -1), (2**32 - 1, -1), (2**63, 0)]
)
def test_seeds_of_64_bits_are_taken_as_llama_server_takes_them(seed: int, taken: int) -> None:
    assert make(seed=seed).sampler.seed == taken


@pytest.mark.parametrize(("asked", "got"), [(3, 3), (4, 0), (9, 1), (-1, -1), (None, -1)])
def test_a_slot_that_is_not_there_is_another_one(asked: int | None, got: int) -> None:
    assert make(id_slot=asked).id_slot == got


@pytest.mark.parametrize("value", BAD_BIASES)
def test_a_logit_bias_that_is_none(value: Any) -> None:
    with pytest.raises(APIError, match="Field 'logit_bias'"):
        make(logit_bias=value)
