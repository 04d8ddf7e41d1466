#!/usr/bin/env python3
"""Convert tiny random checkpoints of every family here and by llama.cpp's own converter: keys and bits must be equal.

    python scripts/checks/check_convert.py --peer-source llama.cpp    # its source, with conversion/ and gguf-py/
    python scripts/checks/check_convert.py --peer-source ... --only gemma3,phi2 --type f16,q8_0

A line a family: how many keys and tensors are equal, and which are not. Names and dates are left out, and vocabularies.
"""

import argparse
import json
import logging
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.convert.checkpoint import open_checkpoint  # noqa: E402  # after the path is set
from powerinfer_cli.convert.converting import convert_checkpoint, write_converted  # noqa: E402  # after the path is set
from powerinfer_cli.convert.out_type import OutType  # noqa: E402  # after the path is set
from powerinfer_cli.errors import PowerInferError  # noqa: E402  # after the path is set
from powerinfer_cli.gguf_io import GGUFFile, open_gguf  # noqa: E402  # after the path is set
from scripts.checks.check_converted import add_words, converter  # noqa: E402  # after the path is set
from tests.helpers.checkpoints import digest, plain_keys, plainly_filled, save_checkpoint, tiny_checkpoints  # noqa: E402  # after the path is set

OURS = (".hidden_activation", "general.file_type")
"""Keys that llama.cpp's converter may lack: of another activation than the architecture's, and in two old families."""
PEER_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def main() -> int:
    """0 where all that llama.cpp converts are equal."""
    args = parse()
    models = tiny_checkpoints()
    names = args.only.split(",") if args.only else list(models)
    convert = converter(args.peer_source)
    record: dict[str, Any] | None = {} if args.record else None
    with tempfile.TemporaryDirectory() as scratch:
        answers = [
            told(
                name,
                models[name],
                (args.files or Path(scratch)) / f"{name}-{kind}",
                kind,
                convert,
                args.verbose,
                record,
            )
            for name in names
            for kind in args.type.split(",")
        ]
    if args.record:
        args.record.write_text(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n")
    print(f"{sum(answers)} of {len(answers)} equal")
    return int(not all(answers))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-source", required=True, type=Path, metavar="FOLDER", help="llama.cpp's source")
    parser.add_argument("--only", metavar="NAME,...", help="of the families' cases")
    parser.add_argument("--type", default="f32", metavar="TYPE,...", help="of f32, f16, bf16, q8_0")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="keep the models and files there")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write down llama.cpp's keys and digests for tests")
    parser.add_argument("--verbose", action="store_true", help="with tracebacks")
    return parser.parse_args()


def told(
    name: str, build: Any, folder: Path, kind: str, convert: Any, verbose: bool, record: dict[str, Any] | None
) -> bool:
    """Whether both files are equal, with its line."""
    model = build() if record is None else plainly_filled(build())
    save_checkpoint(model, folder)
    add_words(model, folder)
    ours, theirs = None, None
    said = ""
    try:
        ours = write_converted(
            convert_checkpoint(open_checkpoint(folder), OutType(kind), vocabulary=False), folder / "ours.gguf"
        )[0]
    except PowerInferError as error:
        said = f"ours: {str(error).replace(str(folder), '.')}"
        if verbose:
            traceback.print_exc()
    try:
        theirs = convert(folder, PEER_TYPES[kind])
    except Exception as error:  # of any kind
        said += f" llama.cpp's: {type(error).__name__}: {error}"[:200]
        if verbose:
            traceback.print_exc()
    if ours is None or theirs is None:
        print(f"{name:24} {kind:5} {said}", flush=True)
        return ours is not None
    with open_gguf(ours) as a, open_gguf(theirs) as b:
        problems = [*key_differences(a, b), *tensor_differences(a, b)]
        if record is not None:
            record[name] = {"digest": digest(b), "keys": plain_keys(b)}
        n_keys, n_tensors = len(plain_keys(b)), len(b.tensors)
    print(f"{name:24} {kind:5} {n_keys} keys, {n_tensors} tensors {'equal' if not problems else 'DIFFER'}", flush=True)
    for problem in problems[:12]:
        print(f"    {problem}", flush=True)
    return not problems


def key_differences(ours: GGUFFile, theirs: GGUFFile) -> list[str]:
    """A line for each key that one lacks or has otherwise."""
    a, b = plain_keys(ours), plain_keys(theirs)
    more = {key for key in a if key.endswith(OURS) and key not in b}
    return [
        f"{key}: {a.get(key)!s:.50} / {b.get(key)!s:.50}" for key in sorted({*a, *b} - more) if a.get(key) != b.get(key)
    ]


def tensor_differences(ours: GGUFFile, theirs: GGUFFile) -> list[str]:
    """A line for each tensor that one lacks, or that has other bits."""
    found = [
        f"{name}: only {'ours' if name in ours.tensors else 'theirs'}"
        for name in sorted({*ours.tensors} ^ {*theirs.tensors})
    ]
    for name in sorted({*ours.tensors} & {*theirs.tensors}):
        a, b = ours.tensors[name], theirs.tensors[name]
        if (a.type, a.shape) != (b.type, b.shape):
            found.append(f"{name}: {a.type.name} {a.shape} / {b.type.name} {b.shape}")
        elif not np.array_equal(a.data, b.data):
            found.append(f"{name}: off by {np.abs(a.to_float32() - b.to_float32()).max():.2g}")
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
