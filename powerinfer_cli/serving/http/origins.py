"""Whose web pages may use the server: browsers say with a request which page it comes from."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from powerinfer_cli.serving.errors import APIError

__all__ = ["allowed_origin", "foreign_page", "is_own"]

_LOCAL = ("localhost", "127.0.0.1", "::1")


def allowed_origin(origin: str, allowed: Iterable[str]) -> str:
    """What Access-Control-Allow-Origin says to a page of `origin`; empty: nothing. "*" allows all, with credentials,
    for which the name must be said; "localhost" those of this machine.
    """
    allowed = tuple(allowed)
    if "*" in allowed:
        return origin or "*"
    if origin in allowed or ("localhost" in allowed and _is_local(origin)):
        return origin
    return ""


def _is_local(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in _LOCAL
    except ValueError:
        return False


def is_own(origin: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the page came from this server, as the browser or a proxy names it. No page can set these headers for a
    server of another origin without having asked.
    """
    if headers.get(b"sec-fetch-site") == b"same-origin":
        return True
    try:
        place = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    names = (headers.get(name, b"").decode("latin-1").lower() for name in (b"host", b"x-forwarded-host"))
    return bool(place) and place in names


def foreign_page(origin: str) -> APIError:
    """A page from elsewhere, which a server without keys does not serve."""
    said = "".join(letter for letter in origin[:100] if letter.isprintable())
    return APIError(403, "permission_error", f"web pages of {said} may not use this server: see --cors-origins")
