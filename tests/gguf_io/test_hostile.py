"""Whatever the bytes are, a file opens or it ends in one GGUFError: quickly, and in memory of the file's own size."""

import os
import re
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerinfer_cli.gguf_io import GGUFError, open_gguf
from powerinfer_cli.gguf_io.cursor import LARGEST_HEADER
from powerinfer_cli.gguf_io.decoders.dispatch import DECODERS
from tests.gguf_io import raw

MEGABYTE = 1 << 20
TERABYTE = 1 << 40


def open_or_refuse(path: Path) -> str | None:
    """Open the file and touch all of it; the message if it is refused. Nothing else may happen."""
    try:
        with open_gguf(path) as file:
            for tensor in file.tensors.values():
                assert tensor.data.nbytes == tensor.nbytes
                assert tensor.rows().nbytes == tensor.nbytes
                assert tensor.type not in DECODERS or tensor.to_float32().shape == tensor.shape
            return None
    except GGUFError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert message.isprintable()
        assert len(message) < len(str(path)) + 400
        return message


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Real files: ours, the gguf package's, and one with all that a file can hold."""
    folder = tmp_path_factory.mktemp("models")
    everything = raw.build(
        [
            *(raw.entry(f"scalar.{kind}", kind, 1) for kind in raw.PACKING),
            *(raw.entry(f"array.{kind}", raw.ARRAY, raw.array(kind, [1, 0])) for kind in raw.PACKING),
            raw.entry("general.alignment", raw.U32, 64),
            raw.entry("nested", raw.ARRAY, raw.array(raw.ARRAY, [raw.array(raw.U8, [1])])),
            raw.entry("split.count", raw.U16, 1),
        ],
        [raw.tensor("a", [32, 2], 2), raw.tensor("b", [4], 0, 64)],
        bytes(80),
        alignment=64,
    )
    return [
        raw.small_model(folder / "ours.gguf").read_bytes(),
        raw.peer_model(folder / "peer.gguf").read_bytes(),
        everything,
    ]


def test_the_real_files_open(tmp_path: Path, models: list[bytes]) -> None:
    assert [open_or_refuse(raw.write(tmp_path, model)) for model in models] == [None] * len(models)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_length_that_a_download_can_stop_at(tmp_path: Path, models: list[bytes], which: int) -> None:
    model = models[which]
    path = raw.write(tmp_path, model)
    refused = {}
    for length in range(len(model) - 1, -1, -1):
        os.truncate(path, length)
        refused[length] = open_or_refuse(path)
    with open_gguf(raw.write(tmp_path, model)) as file:
        ends = [tensor.data.ctypes.data + tensor.nbytes for tensor in file.tensors.values()]
        whole_file = next(iter(file.tensors.values())).data.base
        assert isinstance(whole_file, np.ndarray)
        needed = max(ends) - whole_file.ctypes.data
    # Only the padding behind the last tensor may be missing.
    assert [length for length, message in refused.items() if message is None] == [
        *range(len(model) - 1, needed - 1, -1)
    ]


EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
Mutation = Callable[[bytearray], None]


@st.composite
def mutations(draw: st.DrawFn, size: int) -> Mutation:
    """One change to a file of `size` bytes."""
    at = draw(st.integers(0, size - 1))
    kind = draw(st.sampled_from(["byte", "u64", "u32", "cut", "remove", "insert", "copy"]))
    length = draw(st.integers(1, 16))
    if kind == "byte":
        value = draw(st.integers(0, 255))
        return lambda data: data.__setitem__(slice(at, at + 1), bytes([value]))
    if kind in ("u64", "u32"):
        number = draw(st.sampled_from(EXTREMES))
        packed = struct.pack("<Q", number)[: 8 if kind == "u64" else 4]
        return lambda data: data.__setitem__(slice(at, at + len(packed)), packed)
    if kind == "cut":
        return lambda data: data.__delitem__(slice(at, None))
    if kind == "remove":
        return lambda data: data.__delitem__(slice(at, at + length))
    if kind == "insert":
        content = draw(st.binary(min_size=1, max_size=16))
        return lambda data: data.__setitem__(slice(at, at), content)
    source = draw(st.integers(0, size - 1))
    return lambda data: data.__setitem__(slice(at, at), data[source : source + length])


@pytest.mark.parametrize("which", [0, 1, 2])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_mutated_files(tmp_path: Path, models: list[bytes], which: int, draw: st.DataObject) -> None:
    data = bytearray(models[which])
    # The header and the lists are where a change matters most.
    size = draw.draw(st.sampled_from([64, len(data)]))
    for mutate in draw.draw(st.lists(mutations(size), min_size=1, max_size=4)):
        mutate(data)
    path = raw.write(tmp_path, bytes(data))
    tracemalloc.start()
    started = time.process_time()
    try:
        open_or_refuse(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    magic=st.sampled_from([b"GGUF", b"PWRI"]),
    version=st.sampled_from([2, 3]),
    counts=st.tuples(st.integers(0, 3) | st.sampled_from(EXTREMES), st.integers(0, 3) | st.sampled_from(EXTREMES)),
    rest=st.binary(max_size=200),
)
def test_noise_behind_a_good_header(
    tmp_path: Path, magic: bytes, version: int, counts: tuple[int, int], rest: bytes
) -> None:
    head = magic + struct.pack("<IQQ", version, *counts)
    open_or_refuse(raw.write(tmp_path, head + rest))


@pytest.mark.parametrize("at", range(0, 400, 4))
def test_extreme_numbers_anywhere(tmp_path: Path, models: list[bytes], at: int) -> None:
    for model in models:
        for number in EXTREMES:
            data = bytearray(model)
            data[at : at + 8] = struct.pack("<Q", number)
            open_or_refuse(raw.write(tmp_path, bytes(data)))


def test_places_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    expected = {
        "absent": "cannot be opened: No such file or directory",
        "dangling": "cannot be opened: No such file or directory",
        "loop": "cannot be opened: Too many levels of symbolic links",
        "socket": "cannot be opened: No such device or address",
        "folder": "is a folder, not a GGUF file",
        "fifo": "is a pipe or device, not a GGUF file",
        "empty": "the file is empty",
        "empty/below": "cannot be opened: Not a directory",
        "n" * 300: "cannot be opened: File name too long",
    }
    for name, says in expected.items():
        assert open_or_refuse(tmp_path / name) == f"{tmp_path / name}: {says}"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/maps", ""])
def test_devices_and_the_like(path: str) -> None:
    with pytest.raises(GGUFError, match=r"is a pipe or device|is a folder|the file is empty"):
        open_gguf(path)


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    for name, shown in {"a\nb": r"a\nb", "\x1b[2J": r"\x1b[2J", "\udcff": r"\udcff", "nul\0": r"nul\x00"}.items():
        with pytest.raises(GGUFError) as caught:
            open_gguf(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path}/{shown}: cannot be opened")
        assert str(caught.value).isprintable()


def test_no_permission(tmp_path: Path) -> None:
    path = raw.write(tmp_path, raw.build())
    path.chmod(0)
    # A process of root's may read everything, so the file is opened by a child that is nobody.
    code = (
        "import os, sys\n"
        "from powerinfer_cli.gguf_io import GGUFError, open_gguf\n"
        "os.chdir(sys.argv[1])\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: open_gguf('model.gguf')\n"
        "except GGUFError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "model.gguf: cannot be opened: Permission denied\n"


LIARS = {
    "entries": raw.build(n_entries=2**40),
    "tensors": raw.build(n_tensors=2**40),
    "key": raw.build([raw.u64(2**40) + bytes(32)]),
    "string": raw.build([raw.string("k") + raw.u32(raw.STRING) + raw.u64(2**40) + bytes(32)]),
    "numbers": raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.F64, [], 2**40) + bytes(32))]),
    "bools": raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.BOOL, [], 2**40) + bytes(32))]),
    "strings": raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.STRING, [], 2**40) + bytes(32))]),
    "string in strings": raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.STRING, [raw.u64(2**40) + bytes(32)]))]),
    "arrays": raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.ARRAY, [], 2**40) + bytes(32))]),
    "name": raw.build(tensors=[raw.u64(2**40) + bytes(64)]),
    "shape": raw.build(tensors=[raw.tensor("t", [2**20, 2**20])], data=bytes(64)),
    "alignment": raw.build([raw.entry("general.alignment", raw.U32, 2**31)], [raw.tensor("t", [1])], bytes(4)),
}


def test_nothing_is_allocated_for_what_a_file_claims(tmp_path: Path) -> None:
    """A child that may take only 64 MB more than it has refuses every file that claims a terabyte, and at once."""
    for name, content in LIARS.items():
        raw.write(tmp_path, content, name)
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from powerinfer_cli.gguf_io import GGUFError, open_gguf\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    started = time.process_time()\n"
        "    try: open_gguf(path)\n"
        "    except GGUFError as error: print(path.name, time.process_time() - started < 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} True" for name in sorted(LIARS)]


def measured(path: Path) -> tuple[str | None, int, float]:
    """The message, the peak of memory in bytes and the processor's seconds of opening `path`."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with open_gguf(path):
            message = None
    except GGUFError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return message, peak, time.process_time() - started


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (raw.build(n_entries=2**35), "claims 34359738368 metadata entries, but at most 65536 are allowed"),
        (raw.build(n_tensors=2**35), "claims 34359738368 tensors, but at most 262144 are allowed"),
        (raw.build(n_tensors=2**18), "the tensor '' has 0 dimensions"),
        (raw.build(n_entries=2**16), "metadata entry 0 has an empty key"),
        *(
            (
                raw.build([raw.entry("k", raw.ARRAY, raw.array(kind, [], 2**36))]),
                f"claims 68719476736 {what} in the metadata value 'k', but (of the 134217728|at most 65536)",
            )
            for kind, what in (
                (raw.STRING, "strings"),
                (raw.F64, "numbers"),
                (raw.BOOL, "numbers"),
                (raw.ARRAY, "arrays"),
            )
        ),
        (raw.build([raw.string("k") + raw.u32(raw.STRING) + raw.u64(2**39)]), "needs 549755813888 bytes, but of the"),
        (
            raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.STRING, [raw.u64(2**39)]))]),
            "string 0 of the metadata value 'k' is 549755813888 bytes long, but of the 134217728",
        ),
        (
            raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.ARRAY, [raw.array(raw.ARRAY, [], 2**15)] * 3))]),
            "claims 32768 arrays in the metadata value 'k', but at most",
        ),
    ],
)
def test_files_of_a_terabyte_of_holes(tmp_path: Path, content: bytes, says: str) -> None:
    """Such a file takes no room on the disk, and all that it claims is really there."""
    path = raw.write(tmp_path, content)
    os.truncate(path, TERABYTE)
    message, peak, seconds = measured(path)
    assert message is not None
    assert re.search(says, message)
    assert peak < 16 * MEGABYTE
    assert seconds < 5


def test_a_large_tensor_costs_no_memory(tmp_path: Path) -> None:
    path = raw.write(tmp_path, raw.build(tensors=[raw.tensor("t", [TERABYTE // 8])], data=bytes(4)))
    os.truncate(path, TERABYTE)
    message, peak, seconds = measured(path)
    assert message is None
    assert peak < MEGABYTE
    assert seconds < 5


def test_vocabularies_of_any_sane_size_fit(tmp_path: Path) -> None:
    """Four times the largest known vocabulary's bytes."""
    text = raw.string("x" * 1_000_000)
    path = raw.write(tmp_path, raw.build([raw.entry("k", raw.ARRAY, raw.array(raw.STRING, [text] * 60))]))
    assert path.stat().st_size < LARGEST_HEADER
    with open_gguf(path) as file:
        assert len(file.get("k", list)) == 60
