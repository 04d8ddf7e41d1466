"""The texts that come with the package, to profile models that nobody gave a text for."""

from collections import Counter
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["SampleDocument", "sample_documents", "sample_text"]


@dataclass(frozen=True)
class SampleDocument:
    """One text. `name` is its file's, as code-04-c-queue; `kind` is what stands before the first dash."""

    name: str
    text: str

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


def sample_documents() -> tuple[SampleDocument, ...]:
    """Stories, essays, talk, code, tables, mathematics, a dozen languages: documents of 1 to 9 kB, in a fixed order.

    Every stretch of them holds each kind by about its share of the whole, so that a part is as varied as all.
    """
    folder = files("solver.profile") / "texts"
    named = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".txt")), key=lambda entry: entry.name)
    documents = [SampleDocument(entry.name[:-4], entry.read_text(encoding="utf-8")) for entry in named]
    of_kind = Counter(document.kind for document in documents)
    seen: Counter[str] = Counter()
    placed = []
    for document in documents:
        placed.append(((seen[document.kind] + 0.5) / of_kind[document.kind], document.name, document))
        seen[document.kind] += 1
    return tuple(document for _, _, document in sorted(placed, key=lambda place: place[:2]))


def sample_text() -> str:
    """All of those documents, one after the other."""
    return "\n".join(document.text for document in sample_documents())
