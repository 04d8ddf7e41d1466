"""Which replica a conversation goes to: the one that has read most of it, unless it would have to wait there."""

from powerinfer_cli.cluster.replicas.prefixes import MOST_BLOCKS, Holders, Load, best, prefix_of


def chat(*texts: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def test_a_longer_conversation_begins_as_the_shorter_one() -> None:
    first, second = prefix_of(chat("Hello")), prefix_of(chat("Hello", "Hi!", "How are you?"))
    assert second[: len(first)] == first
    assert len(second) == 3


def test_other_words_are_another_conversation_from_there_on() -> None:
    first, second = prefix_of(chat("a" * 1000, "b")), prefix_of(chat("a" * 1000, "c"))
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]


def test_tools_and_systems_come_before_messages() -> None:
    tools = {"tools": [{"type": "function"}]}
    assert prefix_of(chat("Hello") | tools)[0] != prefix_of(chat("Hello"))[0]
    assert prefix_of(chat("Hello") | tools)[0] == prefix_of(chat("Bye") | tools)[0]


def test_a_prompt_may_be_text_or_tokens() -> None:
    assert len(prefix_of({"prompt": "a" * 1000})) == 4
    assert prefix_of({"prompt": [1, 2, 3]})[:2] == prefix_of({"prompt": [1, 2, 4]})[:2]
    assert prefix_of({"prompt": None, "input": 5.0})
    assert prefix_of({}) == ()


def test_what_is_kept_of_a_request_is_bounded() -> None:
    assert len(prefix_of({"prompt": "a" * (1 << 20)})) == MOST_BLOCKS
    assert len(prefix_of({"messages": ["a"] * 10_000})) == MOST_BLOCKS


def test_the_longest_beginning_counts() -> None:
    holders = Holders()
    holders.note((1, 2, 3), "a")
    holders.note((1, 2), "b")
    assert holders.known((1, 2, 3, 4), ("a", "b", "c")) == {"a": 3, "b": 2}
    assert holders.known((1, 2, 3, 4), ("b", "c")) == {"b": 2}
    assert holders.known((9,), ("a",)) == {}


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    holders = Holders(most=4)
    holders.note((1, 2, 3), "a")
    holders.note((4, 5), "b")
    assert len(holders) == 4
    assert holders.known((1, 2, 3), ("a",)) == {"a": 2}  # its end went first
    for name in "abcdefgh":
        holders.note((1,), name)
    assert set(holders.known((1,), "abcdefgh")) == set("efgh")


def test_who_has_read_it_is_asked_unless_that_takes_longer() -> None:
    def chosen(known: int, busy: int, n_blocks: int = 20) -> str:
        return best([Load("new", 0, 0), Load("old", known, busy)], n_blocks, slots=4)

    assert chosen(known=1, busy=0) == "old"
    assert chosen(known=18, busy=1) == "old"
    assert chosen(known=2, busy=1) == "new"
    assert chosen(known=18, busy=4) == "new"  # a slot would have to be waited for
    assert chosen(known=0, busy=0) == "new"  # it is its turn
