"""Copy the files for a deployment out of the package: `python -m powerinfer_cli.deploy FOLDER`."""

import argparse
import sys
from pathlib import Path

from powerinfer_cli.deploy import copy_out

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m powerinfer_cli.deploy", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("deploy"), help="(default: deploy)")
    args = parser.parse_args(arguments)
    try:
        for path in copy_out(args.folder):
            print(path)
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
