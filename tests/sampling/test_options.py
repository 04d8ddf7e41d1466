from __future__ import annotations

import math

import pytest

import powerinfer_cli.sampling
from powerinfer_cli.errors import UsageError
from powerinfer_cli.sampling import (
    DEFAULT_SAMPLERS,
    SamplerOptions,
    parse_dry_breakers,
    parse_logit_bias,
    parse_sampler_sequence,
    parse_samplers,
)
from powerinfer_cli.sampling.options import RANGES


def test_defaults_are_llama_cpps() -> None:
    """common/common.h, struct common_params_sampling, as of llama.cpp's summer of 2026."""
    options = SamplerOptions()
    assert vars(options) == {
        "seed": -1,
        "min_keep": 0,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "xtc_probability": 0.0,
        "xtc_threshold": 0.1,
        "tfs_z": 1.0,
        "typ_p": 1.0,
        "temp": 0.8,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "penalty_last_n": 64,
        "penalty_repeat": 1.0,
        "penalty_freq": 0.0,
        "penalty_present": 0.0,
        "dry_multiplier": 0.0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": 64,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.9,
        "mirostat": 0,
        "top_n_sigma": -1.0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "ignore_eos": False,
        "dry_sequence_breakers": ("\n", ":", '"', "*"),
        "samplers": DEFAULT_SAMPLERS,
        "logit_bias": {},
    }
    in_order = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
    assert [name for name in DEFAULT_SAMPLERS if name != "tfs_z"] == in_order
    assert DEFAULT_SAMPLERS.index("tfs_z") == DEFAULT_SAMPLERS.index("top_k") + 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("top_p", math.nan, "--top-p must be a finite number, got nan"),
        ("top_p", -0.1, "--top-p must be from 0 to 1, got -0.1"),
        ("top_p", 2.0, "--top-p must be from 0 to 1, got 2.0"),
        ("min_p", 1.5, "--min-p must be from 0 to 1, got 1.5"),
        ("tfs_z", 1.01, "--tfs must be from 0 to 1, got 1.01"),
        ("xtc_probability", -1.0, "--xtc-probability must be from 0 to 1, got -1.0"),
        ("temp", -1.0, "--temp must be 0 or more, got -1.0"),
        ("dynatemp_range", -0.5, "--dynatemp-range must be 0 or more, got -0.5"),
        ("temp", math.inf, "--temp must be a finite number, got inf"),
        ("typ_p", -1.0, "--typical must be from 0 to 1, got -1.0"),
        ("xtc_threshold", -0.1, "--xtc-threshold must be from 0 to 1, got -0.1"),
        ("penalty_repeat", 0.0, "--repeat-penalty must be greater than 0, got 0.0"),
        ("penalty_repeat", 1e-40, "--repeat-penalty must be greater than 0, got 1e-40"),
        ("penalty_freq", math.inf, "--frequency-penalty must be a finite number, got inf"),
        ("penalty_last_n", -2, "--repeat-last-n must be -1 or more, got -2"),
        ("dry_base", 0.5, "--dry-base must be 1 or more, got 0.5"),
        ("dry_allowed_length", -1, "--dry-allowed-length must be 0 or more, got -1"),
        ("adaptive_target", 1.5, "--adaptive-target must be 1 at most, got 1.5"),
        ("adaptive_decay", 1.0, "--adaptive-decay must be from 0 to 0.99, got 1.0"),
        ("mirostat", 3, "--mirostat must be from 0 to 2, got 3"),
        ("mirostat_eta", -0.1, "--mirostat-lr must be 0 or more, got -0.1"),
        ("min_keep", -1, "--min-keep must be 0 or more, got -1"),
        ("seed", 2**32, "--seed must be from -1 to 4294967295, got 4294967296"),
        ("logit_bias", {3: math.nan}, "--logit-bias: the bias of token 3 must be a number or -inf, got nan"),
        ("logit_bias", {3: math.inf}, "--logit-bias: the bias of token 3 must be a number or -inf, got inf"),
    ],
)
def test_nonsense_names_its_flag(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        SamplerOptions(**{field: value})  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("field", "value"), [("top_k", -1), ("top_n_sigma", 0.0), ("penalty_freq", -5.0), ("adaptive_target", -7.0)]
)
def test_what_llama_cpp_gives_a_meaning_is_allowed(field: str, value: float) -> None:
    assert getattr(SamplerOptions(**{field: value}), field) == value  # type: ignore[arg-type]


def test_every_number_has_its_flag_and_range() -> None:
    numbers = {name for name, value in vars(SamplerOptions()).items() if type(value) in (int, float)}
    assert numbers == set(RANGES)


def test_samplers_by_name() -> None:
    assert parse_samplers("top_k;top_p") == ("top_k", "top_p")
    assert parse_samplers("Top-K; minp;temp;nucleus;typ") == ("top_k", "min_p", "temperature", "top_p", "typ_p")
    assert parse_samplers(";".join(DEFAULT_SAMPLERS)) == DEFAULT_SAMPLERS
    assert parse_samplers("") == ()
    with pytest.raises(UsageError, match="--samplers: unknown sampler 'top_q'; known are penalties \\(e\\), dry"):
        parse_samplers("top_k;top_q")
    with pytest.raises(UsageError, match="unknown sampler ''"):
        parse_samplers("top_k;")
    with pytest.raises(UsageError, match="unknown sampler 'topk'"):
        SamplerOptions(samplers=("topk",))


def test_samplers_by_letter() -> None:
    assert parse_sampler_sequence("edskypmxt") == tuple(name for name in DEFAULT_SAMPLERS if name != "tfs_z")
    assert parse_sampler_sequence("fa") == ("tfs_z", "adaptive_p")
    assert parse_sampler_sequence("") == ()
    with pytest.raises(UsageError, match="--sampling-seq: unknown sampler 'q'"):
        parse_sampler_sequence("kq")


def test_logit_bias() -> None:
    assert parse_logit_bias(["15043+1", "7-0.5", "9-inf", " 7 - .5", "15043-2."]) == {
        15043: -1.0,
        7: -1.0,
        9: -math.inf,
    }


@pytest.mark.parametrize("text", ["", "15043", "+1", "a+1", "1+", "1+nan", "-1+2", "1*2", "1+1e5"])
def test_bad_logit_bias(text: str) -> None:
    with pytest.raises(UsageError, match="--logit-bias must look like"):
        parse_logit_bias([text])


def test_dry_breakers() -> None:
    assert parse_dry_breakers(["a", "b"]) == ("a", "b")
    assert parse_dry_breakers(["a", "none"]) == ()
    assert parse_dry_breakers(["none", "b"]) == ("b",)


def test_exports_exist() -> None:
    for name in powerinfer_cli.sampling.__all__:
        assert hasattr(powerinfer_cli.sampling, name)
