"""Write powerinfer_cli/text/unicode_classes.txt from llama.cpp's `src/unicode-data.cpp`.

Usage: python scripts/recording/make_unicode_classes.py LLAMA_CPP/src/unicode-data.cpp

llama.cpp's pre-tokenizers see its own frozen Unicode tables, not the running Python's, so the classes are data here.
Each line of the result is `START CLASS`: code points from START (hexadecimal) up to the next line's have that class.
Classes: L letter, N number, P punctuation, M mark, S symbol, W white space, O anything else.
"""

import re
import sys
from itertools import pairwise
from pathlib import Path

TARGET = Path(__file__).parents[2] / "powerinfer_cli" / "text" / "unicode_classes.txt"
CLASS_OF_FLAG = {0x02: "N", 0x04: "L", 0x10: "M", 0x20: "P", 0x40: "S"}
MAX_CODEPOINTS = 0x110000


def block(source: str, name: str) -> str:
    """The text between the braces of the C++ initialiser `name = {...};`."""
    return source.split(f"{name} = {{", 1)[1].split("};", 1)[0]


def main(path: str) -> None:
    """Read the C++ tables at `path` and write the classes."""
    source = Path(path).read_text(encoding="utf-8")
    ranges = re.findall(r"\{0x([0-9A-F]+), 0x([0-9A-F]+)\}", block(source, "unicode_ranges_flags"))
    starts = [(int(start, 16), CLASS_OF_FLAG.get(int(flags, 16) & 0xFF, "O")) for start, flags in ranges]
    classes = ["O"] * MAX_CODEPOINTS
    for (start, kind), (end, _) in pairwise(starts):
        classes[start:end] = [kind] * (end - start)
    for space in re.findall(r"0x([0-9A-F]+)", block(source, "unicode_set_whitespace")):
        classes[int(space, 16)] = "W"
    lines = [f"{i:X} {kind}" for i, kind in enumerate(classes) if i == 0 or classes[i - 1] != kind]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(lines)} ranges")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_unicode_classes.py LLAMA_CPP/src/unicode-data.cpp")
    main(sys.argv[1])
