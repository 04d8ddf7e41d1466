"""What a user can get wrong with `powerinfer main`: one line, and an exit code."""

from pathlib import Path

import pytest

from tests.helpers.main_cli import powerinfer
from tests.helpers.word_model import with_metadata, word_model

USAGE = [
    (["--color", "red"], "'red'"),
    (["-cnv", "-i"], "excludes -i"),
    (["-sys", "x", "-ins"], "excludes -i"),
    (["-n", "-3"], "-n must be -1"),
    (["-n", "many"], "-n must be a whole number"),
    (["--keep", "-2"], "--keep must be -1"),
    (["-c", "-1"], "-c "),
    (["-b", "0"], "-b "),
    (["-t", "513"], "-t "),
    (["-tb", "100000"], "-tb "),
    (["-ub", "0"], "-ub "),
    (["-ctk", "q4_0"], "-ctk "),
    (["-ctv", "bf16"], "-ctv "),
    (["--numa", "mirror"], "--numa "),
    (["--cpu-strict", "2"], "--cpu-strict "),
    (["-C", "xyz"], "--cpu-mask xyz: not a hexadecimal mask"),
    (["-Cr", "3"], "--cpu-range 3: not a range"),
    (["--numa", "distribute", "-C", "1"], "excludes -C, -Cr and --cpu-strict"),
    (["--reference", "--mlock", "-ctk", "q8_0"], "--reference excludes -ctk, --mlock"),
    (["--no-such-flag"], "--no-such-flag"),
    (["words"], "unexpected 'words': use -p \"words\""),
    (["-p"], "requires an argument"),
    (["-hf", "a/b"], "-m and -hf exclude each other"),
    (["-l", "5"], "--logit-bias must look like"),
    (["-l", "99999+1"], "--logit-bias: token 99999 is outside the vocabulary"),
    (["--temp", "nan"], "--temp must be a finite number"),
    (["--samplers", "top_k;nonsense"], "unknown sampler 'nonsense'"),
    (["--sampling-seq", "k?"], "unknown sampler '?'"),
    (["--mirostat", "3"], "--mirostat"),
    (["-s", "-2"], "--seed"),
]


@pytest.mark.parametrize(("args", "message"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_wrong_usage(words: str, args: list[str], message: str) -> None:
    result = powerinfer("main", "-m", words, *args)
    assert (result.code, result.out) == (2, "")
    assert message in result.error


RUN = [
    (["-f", "/nowhere/at/all"], "/nowhere/at/all: cannot read the text: No such file or directory"),
    (["-f", "/"], "/: cannot read the text: Is a directory"),
    (["-f", "/dev/zero"], "/dev/zero: more than 64 MiB"),
    (["-p", "Once upon a time there was", "-c", "7"], "the prompt has 7 tokens, but the context holds 7"),
    (["-Cr", "4000-4001"], "--cpu-range 4000-4001: core 4000 is not there"),
    (["-C", "1" + "0" * 500], "is not there"),
    (["-ctk", "q8_0"], "-ctk q8_0 needs heads of a multiple of 32"),
    (["-c", "1"], "the prompt has 1 tokens, but the context holds 1"),
    (["-c", str(10**15)], "the KV cache needs"),
    (["-cnv", "--chat-template", "nonsense"], "neither a file nor a built-in"),
    (["-cnv", "--chat-template", "/"], "neither a file nor a built-in"),
    (["-cnv", "--chat-template", "{{ oops"], "the chat template (the command line) failed: line 1"),
    (["-st", "-p", "hi", "--chat-template", "{{ messages.nothing.at.all }}"], "the chat template"),
    (["-st", "-p", "hi", "-c", "4"], "the message alone has"),
]


@pytest.mark.parametrize(("args", "message"), RUN, ids=[" ".join(args) for args, _ in RUN])
def test_what_cannot_be_done(words: str, args: list[str], message: str) -> None:
    result = powerinfer("main", "-m", words, "-t", "1", *args)
    assert result.code == 1
    assert message in result.error


def test_models_that_are_none(words: str, tmp_path: Path) -> None:
    whole = Path(words).read_bytes()
    damaged = {
        "empty": b"",
        "text": b"Once upon a time\n" * 100,
        "head": whole[:1000],
        "half": whole[: len(whole) // 2],
        "short": whole[:-1],
    }
    paths = [tmp_path / "missing", tmp_path]
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        paths.append(tmp_path / name)
    for path in paths:
        result = powerinfer("main", "-m", str(path), "-p", "hi")
        assert (result.code, result.out) == (1, ""), path
        assert str(path) in result.error


def test_a_vocabulary_of_another_model(tmp_path: Path) -> None:
    tokens = word_model().metadata["tokenizer.ggml.tokens"]
    model = with_metadata(word_model(), ggml__tokens=tokens[:-1])
    result = powerinfer("main", "-m", str(model.write(tmp_path / "m.gguf")))
    assert result.code == 1
    assert "m.gguf: tensor token_embd.weight has shape" in result.error


def test_a_model_without_usable_numbers(tmp_path: Path) -> None:
    output = word_model().tensors["output.weight"] * float("nan")
    model = word_model().with_tensors({"output.weight": output}).write(tmp_path / "nan.gguf")
    result = powerinfer("main", "-m", str(model), "-t", "1", "-n", "1")
    assert result.code == 1
    assert "the model gave no usable logits" in result.error
