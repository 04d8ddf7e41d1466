"""The program that the tests start: it gives the server a local model where they name one on the hub."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["local_arguments", "write_wrapper"]

NAMES_A_MODEL = {"--hf-repo", "-hf", "-hfr", "--hf-file", "-hff", "--model-url", "-mu", "--model-draft", "-md"}
ONLY_FOR_THE_HUB = {"--offline"}
RANKS = {"--reranking", "--rerank"}
HAVE_A_MODEL = {"--model", "-m"}


def local_arguments(
    arguments: Sequence[str], model: str, models: str | None = None, ranker: str | None = None
) -> list[str]:
    """The same arguments with `model` in place of one that would be fetched, or `ranker` in place of one that is to
    rank texts; a file that they name stays.

    Routers, which have no model, are started without one; models: a folder that they are given, where a program needs
    to be told that it is one.
    """
    kept: list[str] = []
    remote = False
    words = iter(arguments)
    for word in words:
        if word in NAMES_A_MODEL:
            next(words, None)
            remote = True
        elif word not in ONLY_FOR_THE_HUB:
            kept.append(word)
    if HAVE_A_MODEL & set(kept):
        return kept
    if remote:
        return [*kept, "--model", ranker if ranker is not None and RANKS & set(kept) else model]
    return kept if models is None or "--version" in kept else [*kept, "--models-dir", models]


def write_wrapper(
    path: Path,
    program: Sequence[str],
    model: Path,
    python: str,
    root: Path,
    models: Path | None = None,
    ranker: Path | None = None,
) -> None:
    """An executable that starts `program` with arguments as `local_arguments` has them, in its own place."""
    folder, ranks = (None if path is None else str(path) for path in (models, ranker))
    lines = [
        f"#!{python} -S",
        "import os, sys",
        f"sys.path.insert(0, {str(root)!r})",
        "from scripts.peer_suite.wrapper import local_arguments",
        f"words = {list(program)!r} + local_arguments(sys.argv[1:], {str(model)!r}, {folder!r}, {ranks!r})",
        "os.execvp(words[0], words)",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o755)
