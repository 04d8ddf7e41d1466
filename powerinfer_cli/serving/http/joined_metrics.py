"""Metrics of several servers in one text: a name's lines are together, and labels say whose they are."""

import re
from collections.abc import Mapping

__all__ = ["joined"]

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_ABOUT = re.compile(r"# (?:HELP|TYPE) ([a-zA-Z_:][\w:]*) .*")


def joined(texts: Mapping[str, str], name: str = "model") -> str:
    """texts: by the value of the label `name`, what a server tells. Lines that are none of the format are left out."""
    about: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for value, text in texts.items():
        label = f'{name}="{_escaped(value)}"'
        for line in text.splitlines():
            if found := _ABOUT.fullmatch(line):
                known = about.setdefault(found[1], [])
                if line not in known:
                    known.append(line)
            elif found := _SAMPLE.fullmatch(line):
                labels = f"{label},{found[2]}" if found[2] else label
                samples.setdefault(found[1], []).append(f"{found[1]}{{{labels}}} {found[3]}")
    return "".join(f"{line}\n" for metric in samples for line in (*about.get(metric, ()), *samples[metric]))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
