import subprocess
import sys

from powerinfer_cli import gguf_io


def test_all_names_exist_and_are_sorted() -> None:
    assert (
        sorted(gguf_io.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)) == gguf_io.__all__
    )
    assert all(hasattr(gguf_io, name) for name in gguf_io.__all__)


def test_reading_needs_neither_torch_nor_the_gguf_package() -> None:
    code = "import powerinfer_cli.gguf_io, sys; print(sorted({'torch', 'gguf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
