"""What is kept of what was used last."""

from powerinfer_cli.sampling.recent import RecentCache


def test_what_was_used_longest_ago_makes_room() -> None:
    kept = RecentCache[int](10)
    for name in "abc":
        kept.put(name, value=ord(name), size=3)
    assert kept.get("a") == ord("a")
    kept.put("d", value=4, size=4)
    assert [kept.get(name) for name in "abcd"] == [ord("a"), None, ord("c"), 4]


def test_what_is_too_large_is_not_kept() -> None:
    kept = RecentCache[int](10)
    kept.put("a", "b", value=1, size=5)
    kept.put("c", value=2, size=11)
    assert (kept.get("a", "b"), kept.get("c"), kept.get("a")) == (1, None, None)


def test_it_shrinks_from_the_oldest() -> None:
    kept = RecentCache[int](10)
    for name in "abc":
        kept.put(name, value=ord(name), size=3)
    kept.get("a")
    kept.shrink(6)
    assert [kept.get(name) is None for name in "abc"] == [False, True, False]
    kept.put("d", value=4, size=4)
    assert [kept.get(name) is None for name in "acd"] == [False, False, False]
