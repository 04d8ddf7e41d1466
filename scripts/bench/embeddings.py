#!/usr/bin/env python3
"""Measure vectors of texts against llama.cpp, in alternation: a random model of bge-small's shape in F16.

    python scripts/bench/embeddings.py --peer-python VENV/bin/python        # a Python that has llama_cpp
    python scripts/bench/embeddings.py --peer-python ... --texts 1000 --rounds 5 --tokens 512,2048
    python scripts/bench/embeddings.py --server PATH/llama-server           # both over HTTP

Both read token ids; each measurement is a process of its own, or some requests to servers that stay. Of llama.cpp the
best of the sizes of a step counts.
What both make is held against transformers' own vectors, in float32: cosines.
"""

import argparse
import asyncio
import base64
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from scripts.clients.http import ask  # noqa: E402  # after the path is set
from scripts.clients.process import Server, running, server_command  # noqa: E402  # after the path is set

N_VOCAB, COMPARED = 30522, 16
TEXTS_OF_A_REQUEST = 50
SHAPE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 12}


def main() -> None:
    args = parse()
    if args.ours:
        ours(*args.ours)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ids = np.random.default_rng(1).integers(1000, N_VOCAB, (args.texts, args.length)).astype(np.int32)
        np.save(folder / "ids.npy", ids)
        model = made(folder / "model.gguf")
        found = over_http(folder, ids, args) if args.server else in_processes(folder, args)
        wanted = vectors(model, ids[:COMPARED])
        report(found, args, {name: cosine(np.load(folder / f"{name}.npy"), wanted) for name in ("ours", "peer")})


def in_processes(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each round, by name."""
    found: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        found.setdefault("ours", []).append(measured(["ours"], folder, args))
        for tokens in args.tokens.split(","):
            found.setdefault(f"llama.cpp -ub {tokens}", []).append(measured([tokens], folder, args))
    return found


def over_http(folder: Path, ids: np.ndarray, args: argparse.Namespace) -> dict[str, list[float]]:
    """The same of servers, of which one is asked at a time."""
    flags = ["-m", str(folder / "model.gguf"), "-t", str(args.threads), "--embedding", "--pooling", "mean"]
    commands = {"ours": server_command(*flags)}
    for tokens in args.tokens.split(","):
        room = ["-b", tokens, "-ub", tokens, "-c", "4096", "-np", "8"]
        commands[f"llama.cpp -ub {tokens}"] = [args.server, *flags, *room]
    found: dict[str, list[float]] = {name: [] for name in commands}
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        servers = {name: stack.enter_context(running(command, log)) for name, command in commands.items()}
        for number in range(args.rounds + 1):  # the first is for kernels and memory
            for name, server in servers.items():
                seconds, rows = asked(server, ids if number else ids[:4], args.busy)
                np.save(folder / ("ours.npy" if name == "ours" else "peer.npy"), rows)
                found[name] += [seconds] if number else []
    return found


def asked(server: Server, ids: np.ndarray, busy: bool) -> tuple[float, np.ndarray]:
    """Seconds, of the wall or of the server's processor time, and vectors."""
    begin, rows = used(server) if busy else time.perf_counter(), []
    for at in range(0, len(ids), TEXTS_OF_A_REQUEST):
        body = {"input": ids[at : at + TEXTS_OF_A_REQUEST].tolist(), "encoding_format": "base64"}
        answer = asyncio.run(ask(server.port, "/v1/embeddings", body))
        rows += [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer.json()["data"]]
    return (used(server) if busy else time.perf_counter()) - begin, np.stack(rows)


def used(server: Server) -> float:
    """Seconds of the processor so far."""
    numbers = Path(f"/proc/{server.process.pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return sum(map(int, numbers[11:13])) / os.sysconf("SC_CLK_TCK")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has llama_cpp")
    parser.add_argument("--server", metavar="PATH", help="a llama-server: measure both over HTTP")
    parser.add_argument("--texts", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens of each (default 128)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default 3)")
    parser.add_argument("--tokens", default="512,2048", metavar="N,...", help="of its steps (default 512,2048)")
    parser.add_argument("--busy", action="store_true", help="count seconds of the processor: one thread, busy machine")
    parser.add_argument("--ours", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.ours and not args.peer_python and not args.server:
        parser.error("--peer-python or --server is needed")
    return args


def made(path: Path) -> Any:
    """The torch model, which is written as a file."""
    import torch
    from transformers import BertConfig, BertModel

    from powerinfer_cli.gguf_io import GGMLType
    from tests.helpers.families.encoders import ENCODERS, with_words

    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=N_VOCAB, **SHAPE), add_pooling_layer=False).float().eval()
    file = ENCODERS["bert"].convert(model)
    tables = {name: file.tensors[name] for name in ("position_embd.weight", "token_types.weight")}  # stay as they are
    halves = file.with_tensors(dict.fromkeys(tables)).stored_as(GGMLType.F16)
    words = with_words(file).metadata
    tokens = [*words["tokenizer.ggml.tokens"], *(f"\u2581w{i}" for i in range(N_VOCAB))][:N_VOCAB]
    types = np.array([3, 2, 3, 3] + [1] * (N_VOCAB - 4), np.int32)
    metadata = {**words, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    metadata["tokenizer.ggml.token_type_count"] = 2
    replace(halves.with_tensors(tables), metadata=metadata).write(path)
    return model


def measured(which: list[str], folder: Path, args: argparse.Namespace) -> float:
    """Seconds."""
    clock = "process" if args.busy else "wall"
    if which == ["ours"]:
        command = [sys.executable, __file__, "--ours", str(folder), str(args.threads), "ours.npy", clock]
    else:
        script = ROOT / "scripts" / "peers" / "llama_cpp_embeddings.py"
        command = [args.peer_python, str(script), str(folder / "model.gguf"), str(folder / "ids.npy")]
        command += [str(args.threads), which[0], str(folder / "peer.npy"), clock]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(said.stdout.split()[-1])


def ours(folder: str, threads: str, target: str, clock: str) -> None:
    """Vectors to the file, seconds to stdout."""
    from powerinfer_cli.gguf_io import open_gguf
    from powerinfer_cli.model import load_model
    from powerinfer_cli.opening.context import Context
    from powerinfer_cli.runtime import Engine, EngineOptions

    ids = np.load(Path(folder) / "ids.npy").tolist()
    engine = Engine(load_model(open_gguf(Path(folder) / "model.gguf")), EngineOptions(n_threads=int(threads)))
    context = Context(engine)
    context.hidden(ids[:4], "mean")  # kernels are there, memory is touched
    now = time.process_time if clock == "process" else time.perf_counter
    begin = now()
    found = context.hidden(ids, "mean")
    seconds = now() - begin
    np.save(Path(folder) / target, np.concatenate(found))
    print(seconds)


def vectors(model: Any, ids: np.ndarray) -> np.ndarray:
    """transformers': the mean of hidden states [texts, n_embd]."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(ids).long()).last_hidden_state.mean(1).numpy()


def cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    """The least of the texts that are compared."""
    a, b = found[: len(wanted)].astype(np.float64), wanted.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def report(found: dict[str, list[float]], args: argparse.Namespace, cosines: dict[str, float]) -> None:
    """A line for each, and the ratio to the best of llama.cpp's, within rounds."""
    for name, seconds in found.items():
        rate = args.texts / statistics.median(seconds)
        print(f"{name:20} {statistics.median(seconds):8.2f} s (least {min(seconds):.2f})  {rate:8.1f} texts/s")
    best = min((name for name in found if name != "ours"), key=lambda name: statistics.median(found[name]))
    ratios = [peer / own for peer, own in zip(found[best], found["ours"], strict=True)]
    print(f"{best} by ours: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")
    print(f"least cosine with transformers in float32: ours {cosines['ours']:.8f}, llama.cpp {cosines['peer']:.8f}")


if __name__ == "__main__":
    main()
