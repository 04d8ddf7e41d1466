"""Names for what is answered."""

import secrets
import string

__all__ = ["new_call_id", "new_id"]

_LETTERS = string.ascii_letters + string.digits


def new_id(length: int = 32) -> str:
    """That many random letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def new_call_id(length: int = 0) -> str:
    """The id of a tool's call: of so many letters and digits, or call_ and 24 of them."""
    return new_id(length) if length else f"call_{new_id(24)}"
