#!/usr/bin/env python3
"""Run JSON-Schema-Test-Suite against what is held of schemas: nothing that a schema forbids may be written unsaid.

    pip download --no-deps --no-binary jsonschema jsonschema==4.17.3 && tar xf jsonschema-4.17.3.tar.gz
    python scripts/checks/check_json_schema.py jsonschema-4.17.3/json/tests/draft2020-12

For each file of a draft: how many valid values can be written (others: another order of names, closed objects, other
white space), how many invalid ones cannot, how many can although a warning says so, and how many schemas are refused.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402  # after the path is set
from rich.table import Table  # noqa: E402  # after the path is set

from powerinfer_cli.sampling.grammars.grammar import GrammarError, Grammars, NewConstraint  # noqa: E402  # likewise
from powerinfer_cli.sampling.grammars.json_schema import read_schema  # noqa: E402  # likewise

END = 256
COLUMNS = ("valid", "not written", "invalid", "said", "WRITTEN", "refused")


def fits(new: NewConstraint, text: str) -> bool:
    """Whether all of the text may be written, byte for byte."""
    state = new()
    for byte in text.encode():
        if not state.allows(byte):
            return False
        state.accept(byte)
    return state.allows(END)


def judge(path: Path, grammars: Grammars, wrong: list[str]) -> Counter[str]:
    """The verdicts of one file; what was written against a schema, without a warning, goes to `wrong`."""
    found: Counter[str] = Counter()
    for case in json.loads(path.read_text("utf-8")):
        try:
            loose, new = read_schema(case["schema"]).loose, grammars.json_schema(case["schema"])
        except GrammarError:
            found["refused"] += 1
            continue
        for test in case["tests"]:
            written = fits(new, json.dumps(test["data"]))
            if test["valid"]:
                found["valid" if written else "not written"] += 1
            else:
                found["invalid" if not written else "said" if loose else "WRITTEN"] += 1
                if written and not loose:
                    wrong.append(f"{path.stem}: {case['description']}: {test['description']}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing was written unsaid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="tests/DRAFT of the suite")
    folder: Path = parser.parse_args(arguments).folder
    grammars = Grammars([*(bytes([byte]) for byte in range(256)), b"</s>"], frozenset([END]), {})
    wrong: list[str] = []
    table = Table("keyword", *COLUMNS)
    for path in sorted(folder.glob("*.json")):
        verdicts = judge(path, grammars, wrong)
        table.add_row(path.stem, *(str(verdicts[name] or "") for name in COLUMNS))
    console = Console(markup=False, emoji=False)
    console.print(table)
    for line in wrong:
        console.print(line, style="red")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
