"""The README's table of architectures, as the registry has them. `--update` writes it; else it is printed."""

import argparse
from pathlib import Path

from powerinfer_cli.model.registry import ARCHITECTURES

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- architectures: scripts/architectures_table.py --update -->\n", "<!-- end -->\n"


def table() -> str:
    rows = [f"| `{name}` | {one.models} | {one.differs} |" for name, one in ARCHITECTURES.items()]
    return "\n".join(["| architecture | models, for example | beside `llama` |", "| --- | --- | --- |", *rows, ""])


def with_table(text: str) -> str:
    """A README with the table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README}: the marks of the table are missing")
    return f"{before}{begin}{table()}{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write it into the README")
    if parser.parse_args().update:
        README.write_text(with_table(README.read_text()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
