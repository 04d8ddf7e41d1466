"""The texts that come with the package."""

import re
from collections import Counter
from importlib.resources import files

from solver.profile import sample_documents, sample_text

KINDS = {"chat", "code", "data", "essay", "language", "letter", "maths", "play", "report", "story", "tale"}
NAME = re.compile(r"[a-z]+-\d\d-[a-z0-9-]+")


def test_files_are_clean_text() -> None:
    entries = [entry for entry in (files("solver.profile") / "texts").iterdir() if not entry.name.startswith(".")]
    assert {entry.name for entry in entries} == {f"{document.name}.txt" for document in sample_documents()}
    for entry in entries:
        assert NAME.fullmatch(entry.name.removesuffix(".txt")), entry.name
        text = entry.read_bytes().decode("utf-8")
        assert text.endswith("\n")
        assert not text.startswith(("\ufeff", "\n"))
        assert "\r" not in text
        assert "\ufffd" not in text
        untidy = [line for line in text.split("\n") if line != line.rstrip()]
        assert not untidy, (entry.name, untidy[:3])
        assert not text.endswith("\n\n"), entry.name


def test_the_sample_is_varied() -> None:
    documents = sample_documents()
    assert {document.kind for document in documents} == KINDS
    sizes = [len(document.text.encode()) for document in documents]
    assert sum(sizes) > 320_000
    for kind in KINDS:
        assert sum(len(document.text.encode()) for document in documents if document.kind == kind) > 10_000, kind
    assert min(sizes) > 1000
    assert max(sizes) < 9500
    text = sample_text()
    assert len(text.encode()) == sum(sizes) + len(documents) - 1
    for part in ("harbour master", "def ", "SELECT", "\u4ece\u524d", "Uhrmacher", "Once upon a time", "| planet |"):
        assert part in text


def test_nothing_long_is_said_twice() -> None:
    lines = Counter(line for document in sample_documents() for line in document.text.split("\n"))
    assert [line for line, count in lines.items() if count > 1 and len(line) > 60] == []


def test_each_part_is_as_varied_as_the_whole() -> None:
    documents = sample_documents()
    assert sample_documents() == documents, "the same order each time"
    of_kind = Counter(document.kind for document in documents)
    seen: Counter[str] = Counter()
    for place, document in enumerate(documents, start=1):
        seen[document.kind] += 1
        for kind, count in of_kind.items():
            assert abs(seen[kind] - count * place / len(documents)) < 2, (place, kind)
