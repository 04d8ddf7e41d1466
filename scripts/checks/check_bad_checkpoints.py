#!/usr/bin/env python3
"""Whether bad input of convert, quantize, imatrix and inspect is told in one line, as processes of their own see it.

    python scripts/checks/check_bad_checkpoints.py

A line a case: its exit status and what it said. Bad: another status than 1, a traceback, no or several lines of
errors, or a file that was left. A disk is full by a limit of files' sizes, and, where one may mount, by a small file
system in memory.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.convert.test_converting import BAD, CONFIG, WEIGHTS, _files  # noqa: E402  # after the path is set
from tests.helpers.tiny_tokenizers import byte_level  # noqa: E402  # after the path is set

WORDS = 300
SMALL = 100_000  # bytes: less than the tiny model has


def main() -> int:
    """0 where every case is told well."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        answers = [*checkpoints(folder), *files(folder)]
    print(f"{sum(answers)} of {len(answers)} well told")
    return int(not all(answers))


def checkpoints(scratch: Path) -> list[bool]:
    """`convert` of each kind of bad checkpoint that the tests have."""
    found = []
    for number, (name, (spoil, _)) in enumerate(BAD.items()):
        folder = made(scratch / f"bad-{number}")
        spoil(folder)
        found.append(told(name, ["convert", str(folder), "-o", str(scratch / "out.gguf")], scratch))
    return found


def files(scratch: Path) -> list[bool]:
    """Full disks, inputs that are outputs, and what is no model."""
    good = made(scratch / "good")
    model = scratch / "model.gguf"
    run(["convert", str(good), "-o", str(model), "--type", "f16"])
    text, cut, nothing = scratch / "text.txt", scratch / "cut.gguf", scratch / "nothing.gguf"
    text.write_text("the cat sat on the mat. " * 200)
    cut.write_bytes(model.read_bytes()[:-SMALL])
    nothing.write_bytes(b"")
    out = str(scratch / "out.gguf")
    cases = {
        "convert: the output is a file of the checkpoint": ["convert", str(good), "-o", str(good / WEIGHTS)],
        "convert: no such folder": ["convert", str(scratch / "absent" / "model"), "-o", out],
        "quantize: input is output": ["quantize", str(model), str(model), "Q4_0"],
        "quantize: cut short": ["quantize", str(cut), out, "Q4_0"],
        "quantize: an empty file": ["quantize", str(nothing), out, "Q4_0"],
        "quantize: no such file": ["quantize", str(scratch / "absent.gguf"), out, "Q4_0"],
        "quantize: importance of nothing": ["quantize", str(model), out, "Q4_0", "--imatrix", str(nothing)],
        "quantize: importance that is a model": ["quantize", str(model), out, "Q4_0", "--imatrix", str(model)],
        "quantize: no such folder": ["quantize", str(model), str(scratch / "absent" / "out.gguf"), "Q4_0"],
        "imatrix: cut short": ["imatrix", "-m", str(cut), "-f", str(text), "-o", out],
        "imatrix: no such text": ["imatrix", "-m", str(model), "-f", str(scratch / "absent.txt"), "-o", out],
        "imatrix: an empty text": ["imatrix", "-m", str(model), "-f", str(nothing), "-o", out],
        "imatrix: the output is the model": [
            "imatrix",
            "-m",
            str(model),
            "-f",
            str(text),
            "-o",
            str(model),
            "-c",
            "32",
        ],
        "inspect: an empty file": ["inspect", str(nothing)],
        "inspect: cut short": ["inspect", str(cut)],
        "inspect: no such file": ["inspect", str(scratch / "absent.gguf")],
    }
    found = [told(name, command, scratch) for name, command in cases.items()]
    writing = {
        "convert": ["convert", str(good)],
        "quantize": ["quantize", str(model), "Q8_0"],
        "imatrix": ["imatrix", "-m", str(model), "-f", str(text), "-c", "32"],
    }
    for name, command in writing.items():
        target = into(command, scratch / "out.gguf")
        found.append(told(f"{name}: a limit of files' sizes", target, scratch, limit=4_000))
    with_disk = scratch / "disk"
    with_disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", with_disk], check=False).returncode == 0:
        try:
            for name, command in writing.items():
                found.append(told(f"{name}: a full disk", into(command, with_disk / "out.gguf"), with_disk))
        finally:
            subprocess.run(["umount", with_disk], check=True)
    return found


def into(command: Sequence[str], target: Path) -> list[str]:
    """With its output; `quantize` has it before the type."""
    if command[0] == "quantize":
        return [*command[:-1], str(target), command[-1]]
    return [*command, "-o", str(target)]


def made(folder: Path) -> Path:
    """A tiny Llama with a tokenizer, and as many tokens as that has."""
    folder.mkdir()
    for name, data in _files().items():
        (folder / name).write_bytes(data)
    for name, words in byte_level(WORDS).items():
        (folder / name).write_text(words)
    tensors = load_file(folder / WEIGHTS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name].repeat(4, 1)[:WORDS].contiguous()
    save_file(tensors, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text()) | {"vocab_size": WORDS}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def run(command: Sequence[str], limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """limit: bytes that a file may have."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    preexec: Callable[[], None] | None = limited if limit is not None else None
    whole = [sys.executable, "-m", "powerinfer_cli", *command]
    return subprocess.run(whole, capture_output=True, text=True, check=False, cwd=ROOT, preexec_fn=preexec)


def told(name: str, command: Sequence[str], folder: Path, limit: int | None = None) -> bool:
    """Whether it is, with its line. folder: where nothing new may lie afterwards."""
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = run(command, limit)
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    lines = done.stderr.strip().splitlines()
    left = [path.name for path, time in after.items() if before.get(path) != time and path.is_file()]
    if command[0] == "inspect":  # tells as far as it gets, and why no further
        lines += [f"error: {line}" for line in done.stdout.splitlines() if line.startswith("broken: ")]
    errors = [line for line in lines if line.startswith("error: ")]
    well = done.returncode == 1 and errors == lines[-1:] and "Traceback" not in done.stderr and not left
    last = lines[-1].replace(str(folder), ".") if lines else ""
    more = f" ({len(errors)} errors)" if len(errors) != 1 else ""
    print(
        f"{'ok ' if well else 'BAD'} {name}: {done.returncode}{more}{f', left {left}' if left else ''}: {last}",
        flush=True,
    )
    for path in left:
        (folder / path).unlink()
    return well


if __name__ == "__main__":
    if shutil.which("mount") is None:
        print("no mount: a full disk is not tried")
    sys.exit(main())
