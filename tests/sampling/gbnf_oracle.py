"""What a grammar means, by trying everything: no lexer, no automata."""

from powerinfer_cli.sampling.grammars.gbnf_syntax import Alt, Chars, Node, Ref, Repeat, Rules, Seq, Tokens

__all__ = ["matches"]


def matches(rules: Rules, text: str) -> bool:
    """Whether `root` is all of `text`."""
    known: dict[tuple[str, int], set[int]] = {(name, i): set() for name in rules for i in range(len(text) + 1)}
    before = -1
    while before != (before := sum(len(ends) for ends in known.values())):
        for name, i in known:
            known[name, i] |= _ends(rules[name], i, text, known)
    return len(text) in known["root", 0]


def _ends(node: Node, start: int, text: str, known: dict[tuple[str, int], set[int]]) -> set[int]:
    """Where `node` may end that begins at `start`, by what is known of rules so far."""
    match node:
        case Chars(ranges=ranges):
            fits = start < len(text) and any(low <= ord(text[start]) <= high for low, high in ranges)
            return {start + 1} if fits else set()
        case Ref(name=name):
            return known[name, start]
        case Seq(items=items):
            return _one_after_another(items, {start}, text, known)
        case Alt(items=items):
            return set().union(*(_ends(item, start, text, known) for item in items))
        case Repeat(item=item, low=low, high=high):
            at = _one_after_another((item,) * low, {start}, text, known)
            found = set(at)
            for _ in range(len(text) + 1 if high is None else high - low):
                at = _one_after_another((item,), at, text, known)
                found |= at
            return found
        case Tokens():
            raise TypeError("no texts of characters")


def _one_after_another(
    items: tuple[Node, ...], at: set[int], text: str, known: dict[tuple[str, int], set[int]]
) -> set[int]:
    for item in items:
        at = set().union(*(_ends(item, i, text, known) for i in at))
    return at
