"""Every sampling flag arrives in the sampler."""

import dataclasses

import pytest

from powerinfer_cli.commands.main import session
from powerinfer_cli.sampling import SamplerOptions
from tests.helpers.main_cli import powerinfer
from tests.helpers.word_model import token_id

# Field of SamplerOptions -> (flags, what they ask for). No value is the default.
FLAGS: dict[str, tuple[list[str], object]] = {
    "seed": (["-s", "11"], 11),
    "top_k": (["--top-k", "7"], 7),
    "top_p": (["--top-p", "0.5"], 0.5),
    "min_p": (["--min-p", "0.25"], 0.25),
    "xtc_probability": (["--xtc-probability", "0.5"], 0.5),
    "xtc_threshold": (["--xtc-threshold", "0.2"], 0.2),
    "tfs_z": (["--tfs", "0.9"], 0.9),
    "typ_p": (["--typical", "0.8"], 0.8),
    "temp": (["--temp", "0.3"], 0.3),
    "dynatemp_range": (["--dynatemp-range", "0.1"], 0.1),
    "dynatemp_exponent": (["--dynatemp-exp", "2"], 2.0),
    "penalty_last_n": (["--repeat-last-n", "5"], 5),
    "penalty_repeat": (["--repeat-penalty", "1.1"], 1.1),
    "penalty_freq": (["--frequency-penalty", "0.2"], 0.2),
    "penalty_present": (["--presence-penalty", "0.4"], 0.4),
    "dry_multiplier": (["--dry-multiplier", "0.8"], 0.8),
    "dry_base": (["--dry-base", "1.5"], 1.5),
    "dry_allowed_length": (["--dry-allowed-length", "3"], 3),
    "dry_penalty_last_n": (["--dry-penalty-last-n", "-1"], -1),
    "adaptive_target": (["--adaptive-target", "0.5"], 0.5),
    "adaptive_decay": (["--adaptive-decay", "0.7"], 0.7),
    "mirostat": (["--mirostat", "2"], 2),
    "top_n_sigma": (["--top-nsigma", "1.5"], 1.5),
    "mirostat_tau": (["--mirostat-ent", "4"], 4.0),
    "mirostat_eta": (["--mirostat-lr", "0.2"], 0.2),
    "ignore_eos": (["--ignore-eos"], True),
    "dry_sequence_breakers": (["--dry-sequence-breaker", r"\n\n", "--dry-sequence-breaker", "x"], ("\n\n", "x")),
    "samplers": (["--samplers", "temperature;top-k"], ("temperature", "top_k")),
    "logit_bias": (["-l", "5+1.5", "--logit-bias", "6-inf"], {5: 1.5, 6: float("-inf")}),
}
ALIASES = [
    ("temp", ["--temperature", "0.3"], 0.3),
    ("typ_p", ["--typical-p", "0.8"], 0.8),
    ("top_n_sigma", ["--top-n-sigma", "1.5"], 1.5),
    ("seed", ["--seed", "11"], 11),
    ("samplers", ["--sampling-seq", "tk"], ("temperature", "top_k")),
    ("samplers", ["--sampler-seq", "tk"], ("temperature", "top_k")),
    ("dry_sequence_breakers", ["--dry-sequence-breaker", "none"], ()),
]


class Told(Exception):
    """Carries what the sampler was to be made of."""


def test_every_option_has_a_flag() -> None:
    fields = {field.name for field in dataclasses.fields(SamplerOptions)}
    assert set(FLAGS) == fields - {"min_keep"}  # llama.cpp's programs have no flag for it either


@pytest.mark.parametrize(("name", "args", "value"), [(n, *v) for n, v in FLAGS.items()] + ALIASES)
def test_the_flag_sets_its_option_and_no_other(
    words: str, name: str, args: list[str], value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(options: SamplerOptions, **rest: object) -> None:
        raise Told(options)

    monkeypatch.setattr(session, "build_sampler", tell)
    with pytest.raises(Told) as told:
        powerinfer("main", "-m", words, "-t", "1", *args)
    assert value != getattr(SamplerOptions(), name)
    assert told.value.args[0] == dataclasses.replace(SamplerOptions(), **{name: value})


def test_the_sampler_decides_the_text(words: str) -> None:
    fox = token_id("▁fox")
    result = powerinfer("main", "-m", words, "-t", "1", "-n", "3", "--temp", "0", "-l", f"{fox}+99")
    assert result.out == "fox fox fox\n"


def test_penalties_see_the_prompt(words: str) -> None:
    args = ("-p", "upon Once", "-n", "1", "--temp", "0", "--no-display-prompt")
    assert powerinfer("main", "-m", words, "-t", "1", *args).out == " upon\n"
    assert powerinfer("main", "-m", words, "-t", "1", *args, "--presence-penalty", "50").out != " upon\n"
