"""Device profiles: what comes with the program, what is written and read back, what is refused."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.errors import PowerInferError
from solver.placing.device_profile import bundled_profiles, load_profile, save_profile

NAME = "rtx-4090-ddr5"


def test_common_cards_are_there() -> None:
    cards = {"rtx-3060-12gb", "rtx-3090", "rtx-4090"}
    assert set(bundled_profiles()) == {f"{card}-{host}" for card in cards for host in ("ddr4", "ddr5")}


@pytest.mark.parametrize("name", bundled_profiles())
def test_bundled(name: str) -> None:
    profile = load_profile(name)
    assert profile.source == "data sheet"
    assert "Not measured" in profile.note
    (gpu,) = profile.gpus
    assert gpu.memory == (12 if "12gb" in name else 24) << 30
    host, card = profile.cpu.rates_for("Q4_0"), gpu.rates_for("Q4_0")
    assert 30e9 < host.scattered < host.dense < 90e9
    assert 200e9 < card.scattered < card.dense < 1010e9
    assert profile.gpu(3) is gpu


def test_written_and_read_back(tmp_path: Path) -> None:
    profile = load_profile(NAME)
    profile = replace(profile, link=replace(profile.link, unified=True))
    save_profile(tmp_path / "here.json", profile)
    assert load_profile(str(tmp_path / "here.json")) == profile
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]


def test_nothing_is_left_of_a_profile_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="cannot be written"):
        save_profile(tmp_path / "no" / "here.json", load_profile(NAME))
    (tmp_path / "folder").mkdir()
    with pytest.raises(PowerInferError, match="cannot be written"):
        save_profile(tmp_path / "folder", load_profile(NAME))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def refusal(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PowerInferError) as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "\x00", b"\xff\xfe", "[" * 100_000, '{"a": 1'])
def test_no_json(tmp_path: Path, content: str | bytes) -> None:
    assert "not JSON" in refusal(tmp_path, content)


def test_a_device_that_never_ends() -> None:
    with pytest.raises(PowerInferError, match="too large for a device profile"):
        load_profile("/dev/zero")


def test_missing_and_large(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=r"no-such: cannot read .*bundled: rtx-3060"):
        load_profile("no-such")
    assert "too large" in refusal(tmp_path, " " * (2 << 20))


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", value="2"), "its format is not"),
        (_set("source", value="hearsay"), "its source is neither"),
        (_set("extra", value=1), "has an unknown 'extra'"),
        (lambda c: c.pop("link"), "lacks 'link'"),
        (_set("note", value="a\x1b[31m"), "note is not a line"),
        (_set("gpus", value={}), "gpus is not a list"),
        (_set("gpus", value=[1]), "gpus[0] is not an object"),
        (_set("cpu", value=[]), "cpu is not an object"),
        (_set("cpu", "rates", value={}), "nothing for 'any'"),
        (_set("cpu", "rates", "any", value=3), "cpu.rates.any is not an object"),
        (_set("cpu", "rates", "any", "dense", value=0), "cpu.rates.any.dense is '0', but must be a number above 0"),
        (_set("cpu", "rates", "any", "dense", value=math.nan), "is 'nan'"),
        (_set("gpus", 0, "rates", "any", "scattered", value=math.inf), "gpus[0].rates.any.scattered is 'inf'"),
        (_set("gpus", 0, "layer", value=-1e-6), "gpus[0].layer is '-1e-06', but must be a number from 0"),
        (_set("gpus", 0, "ffn", value=True), "gpus[0].ffn is 'True'"),
        (_set("gpus", 0, "memory", value="24 GB"), "gpus[0].memory is '24 GB'"),
        (_set("link", "bandwidth", value=None), "link.bandwidth is 'None'"),
        (_set("link", "bandwidth", value=10**400), "link.bandwidth is '1000"),
    ],
)
def test_hostile(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    path = Path(load_profile.__code__.co_filename).parent / "profiles" / f"{NAME}.json"
    content = copy.deepcopy(json.loads(path.read_text()))
    change(content)
    assert message in refusal(tmp_path, json.dumps(content))
