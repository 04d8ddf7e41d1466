"""What Ray writes to a server's log without need."""

from typing import Any

__all__ = ["quieten", "without_noise"]


def quieten() -> None:
    """Before Ray is started. At an end it tells that its own controller, which it has killed, is dead."""
    from ray._private import worker

    plain = getattr(worker, "print_to_stdstream", None)  # not of its public interface
    if plain is None or plain.__module__ == __name__:
        return

    def printed(data: dict[str, Any], *args: Any, **more: Any) -> None:
        if lines := without_noise(data.get("lines", [])):
            plain({**data, "lines": lines}, *args, **more)

    worker.print_to_stdstream = printed


def without_noise(lines: list[str]) -> list[str]:
    """Those that say something."""
    return [line for line in lines if not ("Task ServeController." in line and "ray.kill" in line)]
