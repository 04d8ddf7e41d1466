"""The public Python API: texts as `powerinfer main` writes them, chats, vectors, errors, and what is left behind."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli import Answer, OpenModel, PowerInferError, TextStream, open_model
from powerinfer_cli.opening import bundled_model
from powerinfer_cli.runtime.pooling import Pool
from powerinfer_cli.system.memory import resident_memory
from tests.helpers.main_cli import powerinfer
from tests.helpers.placing.placed_model import budget, bytes_alone_count, write_placed
from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model

PROMPT = "Once upon a time there was a bear"
GREEDY = {"temperature": 0.0}
MESSAGES = [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Tell me of a fox."}]


@pytest.fixture(scope="module")
def model() -> Iterator[OpenModel]:
    with open_model(n_ctx=256, n_threads=2) as opened:
        yield opened


def written(*flags: str) -> str:
    """What `powerinfer main` writes, without its last line's end."""
    result = powerinfer("main", "-c", "256", "-t", "2", "--no-display-prompt", *flags)
    assert result.code == 0, result
    return result.out.removesuffix("\n")


@pytest.mark.parametrize(
    ("flags", "keywords"),
    [
        (["--temp", "0"], {"temperature": 0}),
        (["-s", "7"], {"seed": 7}),
        (
            ["-s", "3", "--temp", "1.3", "--top-k", "0", "--top-p", "0.9", "--min-p", "0.02"],
            {"seed": 3, "temperature": 1.3, "top_k": 0, "top_p": 0.9, "min_p": 0.02},
        ),
        (
            ["-s", "5", "--repeat-penalty", "1.3", "--repeat-last-n", "-1", "--frequency-penalty", "0.2", "-l", "11+2"],
            {
                "seed": 5,
                "repeat_penalty": 1.3,
                "repeat_last_n": -1,
                "frequency_penalty": 0.2,
                "logit_bias": {11: 2.0},
            },
        ),
        (["-s", "2", "--mirostat", "2", "--mirostat-ent", "3"], {"seed": 2, "mirostat_mode": 2, "mirostat_tau": 3.0}),
        (
            ["-s", "4", "--dry-multiplier", "1", "--samplers", "dry;top_k"],
            {"seed": 4, "dry_multiplier": 1, "samplers": ["dry", "top_k"]},
        ),
        (["-s", "1", "--grammar", 'root ::= [a-z ]+ "."'], {"seed": 1, "grammar": 'root ::= [a-z ]+ "."'}),
        (
            ["-s", "1", "-j", '{"maxLength": 9, "type": "string"}'],
            {"seed": 1, "json_schema": {"maxLength": 9, "type": "string"}},
        ),
    ],
)
def test_texts_are_those_of_main(model: OpenModel, flags: list[str], keywords: dict[str, object]) -> None:
    pieces = list(model.generate(PROMPT, max_tokens=40, **keywords))  # type: ignore[arg-type]
    assert "".join(pieces) == written("-p", PROMPT, "-n", "40", *flags)
    assert len(pieces) > 3


def test_chats_are_those_of_main(model: OpenModel) -> None:
    flags = ("-st", "-sys", "Tell stories.", "-p", "Tell me of a fox.", "-n", "30", "-s", "9")
    answer = model.chat(MESSAGES, max_tokens=30, seed=9)
    assert isinstance(answer, Answer)
    assert answer.text == str(answer) == written(*flags)
    assert answer.prompt_tokens > 5
    stream = model.chat(iter(MESSAGES), max_tokens=30, seed=9, stream=True)
    assert isinstance(stream, TextStream)
    assert "".join(stream) == stream.text == answer.text
    in_parts = [{"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in MESSAGES]
    assert model.chat(in_parts, max_tokens=30, seed=9) == answer


def test_a_chat_by_another_template() -> None:
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}{{ mood }}"
    with open_model(n_ctx=64, chat_template=template) as opened:
        answer = opened.chat(
            [{"role": "user", "content": "Once"}], template_variables={"mood": " upon"}, **GREEDY, max_tokens=6
        )
        assert answer.text.strip() == opened.generate("<Once> upon", **GREEDY, max_tokens=6).read().text.strip()
        assert opened.template.origin == "the command line"


def test_tokens_are_those_of_the_server(model: OpenModel) -> None:
    body = {"prompt": PROMPT, "temperature": 0, "n_predict": 40, "return_tokens": True}
    with RunningServer("-c", "256", "-t", "2", "-np", "1", "--embeddings", "--pooling", "mean") as server:
        answer = server.client.post("/completion", json=body).json()
        vector = server.client.post("/v1/embeddings", json={"input": PROMPT}).json()["data"][0]["embedding"]
    stream = model.generate(PROMPT, max_tokens=40, **GREEDY)
    assert stream.read().text == answer["content"]
    assert list(model.engine.tokens[stream.prompt_tokens :]) == answer["tokens"][: stream.completion_tokens - 1]
    assert np.allclose(model.embed(PROMPT), vector, atol=1e-6)


def test_a_text_does_not_depend_on_what_came_before(model: OpenModel) -> None:
    """Tokens that were written are held otherwise than those of a prompt, so they are not taken for these."""
    prompts = [PROMPT, PROMPT + " who liked to swim", PROMPT[:12], PROMPT + " who liked honey, and so did his friend"]
    alone = []
    for prompt in prompts:
        model.engine.reset()
        model._context._n_read = 0
        alone.append(model._context.read(None, model.tokenizer.encode(prompt)).copy())
    for a, b in [(0, 1), (1, 0), (0, 0), (3, 2), (2, 3), (1, 3)]:
        model.generate(prompts[a], max_tokens=8, **GREEDY).read()
        assert (model._context.read(None, model.tokenizer.encode(prompts[b])) == alone[b]).all()
    first = model.generate(PROMPT, max_tokens=12, **GREEDY).read()
    longer = PROMPT + first.text
    again = model.generate(longer, max_tokens=12, **GREEDY).read()
    model.engine.reset()
    model._context._n_read = 0
    assert model.generate(longer, max_tokens=12, **GREEDY).read() == again


def test_a_seed_gives_the_same_text_again(model: OpenModel) -> None:
    stream = model.generate(PROMPT, max_tokens=20)
    text = stream.read().text
    assert model.generate(PROMPT, max_tokens=20, seed=stream.seed).read().text == text
    assert len({model.generate(PROMPT, max_tokens=20).seed for _ in range(4)}) > 1


def test_where_a_text_ends(model: OpenModel) -> None:
    whole = model.generate(PROMPT, max_tokens=30, **GREEDY).read()
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 30)
    word = whole.text.split()[4]
    cut = model.generate(PROMPT, max_tokens=30, stop=[word, "never"], **GREEDY).read()
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(word)], "stop")
    assert model.generate(PROMPT, max_tokens=30, stop=word, **GREEDY).read() == cut
    assert model.generate(PROMPT, max_tokens=0).read().text == ""
    full = model.generate(PROMPT, ignore_eos=True, seed=1).read()
    assert full.finish_reason == "length"
    assert full.prompt_tokens + full.completion_tokens == model.n_ctx + 1
    ids = model.tokenizer.encode(PROMPT)
    assert model.generate(ids, max_tokens=30, **GREEDY).read() == whole
    assert model.generate(np.array(ids), max_tokens=30, **GREEDY).read() == whole  # type: ignore[arg-type]  # works too


def test_json_of_a_response_format(model: OpenModel) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    for form in (
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        {"type": "json_object", "schema": schema},
    ):
        answer = model.chat(MESSAGES, response_format=form, seed=1)
        assert answer.text.replace(" ", "").replace("\n", "") in ('{"a":1}', '{"a":2}')
        assert answer.finish_reason == "stop"
    plain = model.chat(MESSAGES, response_format={"type": "text"}, seed=1, max_tokens=9)
    assert plain == model.chat(MESSAGES, seed=1, max_tokens=9)


def test_no_piece_is_a_part_of_a_character(model: OpenModel) -> None:
    text = "Ünï 漢字 😀🙂 é"
    pieces = list(model.generate(PROMPT, grammar=f'root ::= "{text}"'))
    assert "".join(pieces) == text
    assert all(piece and "\ufffd" not in piece for piece in pieces)
    assert len(pieces) > 5
    cut = list(model.generate(PROMPT, grammar=f'root ::= "{text}"', max_tokens=len(model.tokenizer.encode(text)) - 3))
    assert text.startswith("".join(cut))


def test_vectors(model: OpenModel) -> None:
    one, two = model.embed([PROMPT, "A fox"])
    assert one.shape == (model.engine.config.n_embd,)
    assert one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1)
    assert not np.allclose(one, two)
    [rows] = model._context.hidden([model.tokenizer.encode(PROMPT)], "none")
    pool = Pool("mean")
    pool.add(rows.astype(np.float32))
    assert np.allclose(model.embed(PROMPT, normalize=False), pool.result[0], atol=1e-5)
    assert np.allclose(model.embed(PROMPT, pooling="cls", normalize=False), rows[0])
    assert model.embed([]).shape == (0, one.size)
    text = model.generate(PROMPT, max_tokens=5, **GREEDY).read()
    model.embed("something else")
    assert model.generate(PROMPT, max_tokens=5, **GREEDY).read() == text


def test_another_text_ends_the_first(model: OpenModel) -> None:
    first = model.generate(PROMPT, max_tokens=10)
    next(first)
    model.generate("A fox", max_tokens=1).read()
    with pytest.raises(PowerInferError, match="another text was begun with this model"):
        list(first)
    second = model.generate(PROMPT, max_tokens=10, **GREEDY)
    next(second)
    second.close()
    assert list(second) == []


def test_threads_may_share_it(model: OpenModel) -> None:
    """Each gets its text, or is told that another one was begun; nothing else happens."""
    wanted = model.generate(PROMPT, max_tokens=12, **GREEDY).read()
    found: list[object] = []

    def work() -> None:
        for _ in range(5):
            try:
                found.append(model.generate(PROMPT, max_tokens=12, **GREEDY).read())
            except PowerInferError as error:
                found.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(one == wanted or "another text" in str(one) for one in found)
    assert model.generate(PROMPT, max_tokens=12, **GREEDY).read() == wanted


def test_an_interrupted_text_leaves_the_model_whole(model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = model.generate(PROMPT, max_tokens=12, **GREEDY).read()
    with monkeypatch.context() as patch:

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(model.engine, "prefill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate(PROMPT + " and", max_tokens=12).read()
    assert model.generate(PROMPT, max_tokens=12, **GREEDY).read() == wanted


def helpers() -> int:
    """Threads of teams."""
    return sum(thread.name.startswith("powerinfer-") for thread in threading.enumerate())


def test_closing_frees_threads_and_memory() -> None:
    gc.collect()
    threads, texts = helpers(), set()
    used = []
    for _ in range(5):
        with open_model(bundled_model(), n_ctx=16384, n_threads=2) as opened:
            texts.add(opened.generate(PROMPT, max_tokens=10, **GREEDY).read().text)
            stream = opened.generate(PROMPT, max_tokens=10)
            next(stream)
        opened.close()
        for late in (partial(opened.generate, "x"), partial(next, stream), partial(opened.embed, "x")):
            with pytest.raises(PowerInferError, match="the model is closed"):
                late()
        used.append(resident_memory() or 0)
    assert len(texts) == 1
    assert used[4] - used[1] < 20 << 20, used  # the weights of three are more
    deadline = time.monotonic() + 20
    while helpers() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert helpers() <= threads


@pytest.fixture
def by_counting_alone() -> Iterator[None]:
    """Python frees what nobody refers to, and does not look for circles."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("by_counting_alone")
def test_nothing_is_left_of_a_model() -> None:
    with open_model(bundled_model(), n_ctx=64, n_threads=1) as opened:
        opened.generate(PROMPT, max_tokens=3).read()
        opened.chat(MESSAGES, max_tokens=1)
        parts = [weakref.ref(part) for part in (opened, opened.engine, opened.engine._backend, opened.tokenizer)]
    del opened
    assert [part() for part in parts] == [None] * len(parts)


def test_two_models_at_once(model: OpenModel) -> None:
    wanted = model.generate(PROMPT, max_tokens=12, **GREEDY).read().text
    with open_model(bundled_model(), n_ctx=64, n_threads=1) as other:
        streams = [one.generate(PROMPT, max_tokens=12, **GREEDY) for one in (model, other)]
        texts = ["".join(pieces) for pieces in zip(*zip(*streams, strict=True), strict=True)]
    assert texts[0] == wanted
    assert texts[1][:10] == wanted[:10]


def test_a_budget_of_gpu_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsed on the CPU; a number and a list are the same."""
    bytes_alone_count(monkeypatch)
    path = write_placed(tmp_path)
    half = float(budget(path))
    texts = []
    for given in (half, [half], None):
        with open_model(path, device="cpu", vram_budget=given, disable_gpu_index=True) as opened:
            texts.append(opened.generate("Once", max_tokens=5, **GREEDY).read().text)
            assert len(opened.gpus) == (given is not None)
            if opened.placement is not None:
                assert sum(opened.placement.plan.hot_counts) == 32
                assert opened.engine.devices == opened.placement.used == ("cpu",)
    assert len(set(texts)) == 1
    with open_model(path, device="cpu", n_gpu_layers=1) as opened:
        assert opened.gpus[0].startswith("rehearsed on the CPU, 1 of 2 layers")


def test_remarks_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "powerinfer_cli"),
        open_model(write_placed(tmp_path), device="cpu", n_gpu_layers=2),
    ):
        pass
    assert "the GPU's part is rehearsed on the CPU: slow, and only good for trying plans out" in caplog.messages


def test_a_model_without_a_vocabulary(tmp_path: Path) -> None:
    words = word_model()
    bare = {key: value for key, value in words.metadata.items() if not key.startswith("tokenizer.")}
    path = type(words)(words.arch, bare, words.tensors, words.sparse).write(tmp_path / "m.gguf")
    with pytest.raises(PowerInferError, match="tokenizer"):
        open_model(path)
    with open_model(path, text=False) as opened:
        assert opened.engine.prefill([1, 2]).shape == (opened.engine.config.n_vocab,)
        with pytest.raises(PowerInferError, match="opened without its vocabulary"):
            opened.generate("x")
