"""What pytest says of a run, and two runs side by side."""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome", "compared", "read_outcomes", "summary"]

LONGEST_REASON = 300


@dataclass(frozen=True)
class Outcome:
    """How one test ended: "passed", "failed" or "skipped"; `reason` is what it failed with, in a line."""

    state: str
    reason: str = ""


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """A JUnit file as outcomes by test."""
    # The file was written by pytest a moment ago, on this machine.
    found: dict[str, Outcome] = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        found[name] = outcome(case)
    return found


def outcome(case: ET.Element) -> Outcome:
    """One test's."""
    for kind in ("failure", "error"):
        if (failure := case.find(kind)) is not None:
            return Outcome("failed", reason(failure))
    return Outcome("skipped" if case.find("skipped") is not None else "passed")


def reason(failure: ET.Element) -> str:
    """The first lines that pytest marks with E, as one; addresses of objects are left out."""
    marked = [line[1:].strip() for line in (failure.text or "").splitlines() if line.startswith("E ")]
    text = " / ".join(marked[:3]) or (failure.get("message") or "").replace("\n", " ")
    return re.sub(r"\b0x[0-9a-f]+", "0x...", text)[:LONGEST_REASON]


def compared(ours: Mapping[str, Outcome], theirs: Mapping[str, Outcome]) -> str:
    """Markdown: counts, then the tests that we fail, with reasons, by how they ended for llama-server.

    Both failing with the same words says that the test asks for what the stand-in cannot give, and no more.
    """
    groups: dict[str, list[str]] = {"Failed by us alone": [], "Failed by both, differently": [], "Failed alike": []}
    for name in sorted(name for name, found in ours.items() if found.state == "failed"):
        other = theirs.get(name, Outcome("missing"))
        alike = other.state == "failed" and other.reason == ours[name].reason
        title = (
            "Failed alike"
            if alike
            else "Failed by both, differently"
            if other.state == "failed"
            else "Failed by us alone"
        )
        line = f"- `{name}`: {ours[name].reason}"
        groups[title].append(line + (f" (llama-server: {other.reason})" if title.endswith("differently") else ""))
    lines = [f"ours: {summary(ours)}", f"llama-server with the same stand-in: {summary(theirs)}", ""]
    for title, found in groups.items():
        lines += [f"## {title} ({len(found)})", *found, ""]
    return "\n".join(lines)


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """Counts by state, in a line."""
    counts = Counter(found.state for found in outcomes.values())
    return ", ".join(f"{counts[state]} {state}" for state in ("passed", "failed", "skipped"))
