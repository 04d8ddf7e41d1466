"""The text that comes with the package, to profile models that nobody gave a text for."""

from importlib.resources import files

__all__ = ["sample_text"]


def sample_text() -> str:
    """Prose, essays, talk, code, lists, letters, simple tales, and a dozen languages; some 60 kB."""
    folder = files("solver.profile") / "texts"
    parts = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".txt")), key=lambda entry: entry.name)
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)
