"""`python -m powerinfer_cli` is the same as `powerinfer`."""

from powerinfer_cli.cli import run

if __name__ == "__main__":
    run()
