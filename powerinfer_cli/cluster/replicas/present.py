"""Which replicas this process may ask now: Serve's router says so, and the door reads it."""

__all__ = ["names_of", "tell"]

_names: dict[str, tuple[str, ...]] = {}


def tell(deployment: str, names: tuple[str, ...]) -> None:
    """These are all that there are."""
    _names[deployment] = names


def names_of(deployment: str) -> tuple[str, ...]:
    """None before anybody was asked."""
    return _names.get(deployment, ())
