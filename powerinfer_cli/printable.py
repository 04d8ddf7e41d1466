"""Other people's words, so that they neither steer a terminal nor make a line of their own."""

__all__ = ["printable"]


def printable(text: str, instead: str = "?") -> str:
    """The same with something else for what cannot be shown."""
    return "".join(letter if letter.isprintable() else instead for letter in text)
