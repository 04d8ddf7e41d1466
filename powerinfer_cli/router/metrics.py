"""Metrics of several models in one text: a name's lines are together, and labels say whose they are."""

import re
from collections.abc import Mapping

__all__ = ["joined"]

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_ABOUT = re.compile(r"# (?:HELP|TYPE) ([a-zA-Z_:][\w:]*) .*")


def joined(texts: Mapping[str, str]) -> str:
    """texts: by a model's name, what its server tells. Lines that are none of the format are left out."""
    about: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for model, text in texts.items():
        label = f'model="{_escaped(model)}"'
        for line in text.splitlines():
            if found := _ABOUT.fullmatch(line):
                known = about.setdefault(found[1], [])
                if line not in known:
                    known.append(line)
            elif found := _SAMPLE.fullmatch(line):
                labels = f"{label},{found[2]}" if found[2] else label
                samples.setdefault(found[1], []).append(f"{found[1]}{{{labels}}} {found[3]}")
    return "".join(f"{line}\n" for name in samples for line in (*about.get(name, ()), *samples[name]))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
