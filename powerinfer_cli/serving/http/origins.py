"""Whose web pages may use the server: browsers say with a request which page it comes from."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from powerinfer_cli.serving.errors import APIError

__all__ = ["allowed_origin", "foreign_page", "is_own", "named_origin"]


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


def named_origin(text: str) -> str:
    """One of those to allow, as browsers write it: in small letters, nothing behind the name. Raises ValueError."""
    if text in ("*", "localhost", "null"):
        return text
    scheme, _, place = text.lower().partition("://")
    place = place.removesuffix("/")
    if not scheme or not place or "@" in place or urlsplit(f"{scheme}://{place}").netloc != place:
        raise ValueError(f"{text} is no origin")
    return f"{scheme}://{place}"


def _is_local(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
        if f".{host}".endswith(".localhost"):
            return True
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified  # 0.0.0.0, as many a server tells where it is


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
    given = (headers.get(name, b"").decode("latin-1").lower() for name in (b"host", b"x-forwarded-host"))
    names = [text.partition(",")[0].strip() for text in given]  # each of several proxies adds one
    return bool(place) and place in names


def foreign_page(origin: str) -> APIError:
    """A page from elsewhere, which a server without keys does not serve."""
    said = "".join(letter for letter in origin[:100] if letter.isprintable())
    return APIError(403, "permission_error", f"web pages of {said} may not use this server: see --cors-origins")
