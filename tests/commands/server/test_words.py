"""How `powerinfer server` reads its command line and its environment; no server is started."""

from pathlib import Path

import pytest
from typer.main import get_command

from powerinfer_cli.commands.server import command
from powerinfer_cli.commands.server.environment import VARIABLES, environment_words
from powerinfer_cli.commands.server.harmless import HARMLESS, without_harmless
from powerinfer_cli.commands.server.words import with_layers
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.options import ServerOptions
from tests.helpers.main_cli import powerinfer
from tests.helpers.result import Result


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ServerOptions]:
    """What a server would have been started with; it is not."""
    found: list[ServerOptions] = []

    def no_server(options: ServerOptions, *rest: object, at_end: object) -> None:
        found.append(options)

    monkeypatch.setattr("powerinfer_cli.serving.lifecycle.serve", no_server)
    monkeypatch.setattr("powerinfer_cli.serving.http.sockets.bind", lambda hosts, port: [])
    return found


def run(*flags: str) -> Result:
    return powerinfer("server", *flags)


def failed(result: Result, code: int) -> str:
    assert result.code == code, result
    assert result.err.count("\n") == 1
    assert result.err.startswith("error: ")
    return result.err


def test_flags(asked: list[ServerOptions], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\n three \n\nfour\n")
    flags = ["--host", "0.0.0.0,::1", "--port", "1234", "-a", "b,a", "--tags", "x", "--temp", "0.5", "-n", "7"]
    flags += ["--api-key", "one,two", "--api-key-file", str(keys), "-to", "5", "--metrics", "--no-slots", "--props"]
    flags += ["--embedding", "--pooling", "last", "--chat-template", "chatml", "--no-jinja", "--no-webui"]
    flags += ["--reasoning-format", "none", "--slot-save-path", str(tmp_path / "new"), "--ctx-shift"]
    flags += ["--chat-template-kwargs", '{"tone": "dry"}', "--reasoning", "off", "--no-prefill-assistant"]
    flags += ["--no-cache-prompt", "--cors-origins", "http://A.b/, localhost", "--queue", "3", "--log-format", "json"]
    assert run(*flags) == Result(0, "", "")
    (options,) = asked
    assert options.api_keys == {"one", "two", "three", "four"}
    assert (options.alias, options.names, options.tags) == ("a", ("a", "b"), ("x",))
    assert (options.sampler.temp, options.n_predict, options.timeout_s) == (0.5, 7, 5.0)
    assert (options.metrics, options.slots, options.props, options.ui, options.jinja) == (
        True,
        False,
        True,
        False,
        False,
    )
    assert (options.embedding, options.pooling, options.chat_template) == (True, "last", "chatml")
    assert (options.reasoning_format, options.context_shift, options.cache_prompt) == ("none", True, False)
    assert (options.cors_origins, options.queue, options.log_json) == (("http://a.b", "localhost"), 3, True)
    assert options.template_variables == {"tone": "dry", "enable_thinking": False}
    assert not options.prefill_assistant
    assert (tmp_path / "new").is_dir()


def test_the_environment(asked: list[ServerOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_N_PREDICT", "9")
    monkeypatch.setenv("LLAMA_ARG_TIMEOUT", "3")
    monkeypatch.setenv("LLAMA_ARG_N_GPU_LAYERS", "auto")
    monkeypatch.setenv("LLAMA_ARG_ENDPOINT_METRICS", "on")
    monkeypatch.setenv("LLAMA_ARG_ENDPOINT_SLOTS", "disabled")
    monkeypatch.setenv("LLAMA_ARG_NO_CACHE_PROMPT", "1")
    monkeypatch.setenv("LLAMA_ARG_HOST", "")
    assert run("-n", "8").code == 0
    (options,) = asked
    assert (options.n_predict, options.timeout_s) == (8, 3.0)
    assert (options.metrics, options.slots, options.cache_prompt) == (True, False, False)
    assert (options.api_keys, options.cors_origins) == (frozenset(), ("localhost",))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LLAMA_ARG_CTX_SIZE", "many", " must be a whole number, got 'many'"),
        ("LLAMA_ARG_PORT", "-1", " must be 0 or more, got '-1'"),
        ("LLAMA_ARG_TOP_P", "x", " must be a number, got 'x'"),
        ("LLAMA_ARG_POOLING", "x", " is wrong: 'x' is not one of"),
        ("LLAMA_ARG_UI", "perhaps", ""),
    ],
)
def test_a_variable_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert variable + words in failed(run(), 2)


@pytest.mark.parametrize("origin", ["a.b", "http://a.b/page", "localhost, evil.com"])
def test_what_is_no_origin_is_named(asked: list[ServerOptions], origin: str) -> None:
    assert "--cors-origins" in failed(run("--cors-origins", origin), 2)


@pytest.mark.parametrize("variable", ["LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_key_opens_no_door(
    asked: list[ServerOptions], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert f"{variable} is empty" in failed(run(), 2)
    assert asked == []
    monkeypatch.delenv(variable)
    monkeypatch.setenv("LLAMA_API_KEY", "")
    assert run("--api-key", "one").code == 0
    assert asked[0].api_keys == {"one"}


def test_a_router_calls_a_model_by_its_file(asked: list[ServerOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "end_with_input", lambda: None)
    for routed, names in (("", ("a", "b")), ("1", ("b,a",))):
        monkeypatch.setenv("POWERINFER_ROUTED", routed)
        assert run("--alias", "b,a").code == 0
        assert (asked[-1].alias, asked[-1].names) == (names[0], names)


def test_a_flag_replaces_what_a_variable_says_of_its_rival() -> None:
    environment = {"LLAMA_ARG_MODEL": "a.gguf", "LLAMA_ARG_HF_FILE": "b"}
    assert environment_words(environment, ["-hf", "x/y"]) == [("LLAMA_ARG_HF_FILE", ["--hf-file=b"])]
    assert environment_words(environment, ["--model=c"]) == [("LLAMA_ARG_MODEL", ["--model=a.gguf"])]


def test_every_variable_names_a_flag(asked: list[ServerOptions]) -> None:
    text = powerinfer("server", "--help").out
    known = {word for line in text.replace(",", " ").split("\n") for word in line.split() if word.startswith("--")}
    for variable in VARIABLES.values():
        assert any(variable.flag.startswith(word.rstrip("…")) for word in known), variable.flag


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["-fa", "on", "-c", "8"], ["-c", "8"]),
        (["-fa", "-c", "8"], ["-c", "8"]),
        (["--poll", "0", "--no-mmap"], []),
        (["--poll=-1"], []),
        (["--alias", "--offline"], ["--alias", "--offline"]),
    ],
)
def test_harmless_flags(args: list[str], left: list[str]) -> None:
    rest, remarks = without_harmless(args, frozenset({"--alias", "-c"}))
    assert rest == left
    assert all(remark.startswith("warning: ") and "has no effect: " in remark for remark in remarks)


def test_variables_that_nobody_knows_are_remarked_on(
    asked: list[ServerOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_FLASH_ATTN", "on")
    monkeypatch.setenv("LLAMA_ARG_NO_REPACK", "1")
    result = run()
    assert (result.code, len(asked)) == (0, 1)
    assert result.err == "warning: LLAMA_ARG_FLASH_ATTN has no effect: no flag here is called so\n"


def test_harmless_flags_are_remarked_on(asked: list[ServerOptions]) -> None:
    result = run("--no-mmap", "-np", "2")
    assert (result.code, len(asked)) == (0, 1)
    assert result.err.startswith("warning: --no-mmap has no effect: ")
    assert all(one.reason for one in HARMLESS)


def test_no_flag_of_the_command_is_harmless() -> None:
    own = {name for parameter in get_command(command.app).params for name in parameter.opts}
    assert not own & {name for one in HARMLESS for name in one.names}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--grp-attn-n", "2"], 2, "--grp-attn-n"),
        (["-sm", "row"], 2, "-sm row"),
        (["-fa=off"], 2, "-fa off"),
        (["-nocb"], 2, "-np 1"),
        (["-np", "0"], 2, "-np"),
        (["--api-key", " , "], 2, "anybody"),
        (["--api-key-file", "/nowhere/keys"], 1, "/nowhere/keys"),
        (["--api-key-file", "/dev/null"], 1, "no key"),
        (["--slot-save-path", "/dev/null/x"], 1, "/dev/null/x"),
        (["--chat-template", "chatml", "--chat-template-file", "x"], 2, "exclude"),
        (["--chat-template-file", "/nowhere/x"], 1, "--chat-template-file /nowhere/x: cannot be read"),
        (["--chat-template-kwargs", "{"], 2, "not JSON"),
        (["--chat-template-kwargs", "[]"], 2, "object"),
        (["--reasoning-budget", "5"], 2, "--reasoning-budget"),
        (["--path", "/nowhere"], 1, "/nowhere"),
        (["--host", "no.such.host.invalid"], 1, "no.such.host.invalid"),
        (["--host", ","], 1, "--host"),
        (["--host", "/nowhere/x.sock"], 1, "/nowhere/x.sock"),
        (["--port", "65536"], 2, "--port"),
        (["--host", "127.0.0.1,::1", "--port", "0"], 1, "--port 0"),
        (["--temp", "nan"], 2, "--temp"),
    ],
)
def test_what_is_wrong_is_one_line(flags: list[str], code: int, words: str) -> None:
    assert words in failed(run(*flags), code)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["-ngl", "auto", "-c", "8"], ["-c", "8"]),
        (["-ngl=all"], ["-ngl", "-1"]),
        (["--gpu-layers", "99"], ["--gpu-layers", "99"]),
        (["--n-gpu-layers"], ["--n-gpu-layers", ""]),
    ],
)
def test_numbers_of_layers(words: list[str], meant: list[str]) -> None:
    assert with_layers(words) == meant


def test_slots() -> None:
    from powerinfer_cli.commands.server.flags import SlotFlags
    from powerinfer_cli.runtime import EngineOptions

    def made(**flags: object) -> tuple[int, bool]:
        options = command.with_slots(EngineOptions(), SlotFlags(**flags))  # type: ignore[arg-type]  # names are checked
        return options.n_sequences, options.unified

    assert made() == (4, True)
    assert made(kv_unified=False) == (4, False)
    assert made(parallel=2) == (2, False)
    assert made(parallel=2, kv_unified=True) == (2, True)


def test_files_of_a_repository_need_one(asked: list[ServerOptions]) -> None:
    from powerinfer_cli.commands.shared.flags.model import ModelFlags
    from powerinfer_cli.commands.shared.model_source import find_model

    with pytest.raises(PowerInferError, match="--hf-file"):
        find_model(ModelFlags(), "x.gguf")
