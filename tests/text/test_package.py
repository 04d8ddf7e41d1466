"""The room's front door."""

import powerinfer_cli.text as room


def test_what_is_exported_exists() -> None:
    assert room.__all__ == sorted(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)
