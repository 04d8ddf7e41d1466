"""What is told of a model on this machine, as `list` and `show` tell it."""

from typing import TYPE_CHECKING, Any

from powerinfer_cli.errors import PowerInferError

if TYPE_CHECKING:
    from powerinfer_cli.hub.local import StoredModel

__all__ = ["facts"]


def facts(model: "StoredModel", *, speed: bool) -> dict[str, Any]:
    """Of one model, as JSON has it. fault: why it does not run here, or is not whole."""
    from powerinfer_cli.opening.outlook import outlook
    from powerinfer_cli.opening.wishes import PlacementWishes
    from powerinfer_cli.runtime import LoadEvents

    told: dict[str, Any] = {
        "name": model.name,
        "files": [str(path) for path in model.files],
        "bytes": model.size,
        "fault": f"{model.missing} of its parts are missing" if model.missing else None,
    }
    try:
        found = outlook(model.path, PlacementWishes(), LoadEvents(), speed=speed)
    except PowerInferError as error:
        told["fault"] = told["fault"] or str(error)
        return told
    rate = found.tokens_per_second
    return told | {
        "type": found.type,
        "kind": found.kind,
        "context": found.n_ctx,
        "beside": list(found.beside),
        "needed_bytes": found.needed,
        "fits": found.fits,
        "tokens_per_second": None if rate is None else round(rate, 1),
    }
