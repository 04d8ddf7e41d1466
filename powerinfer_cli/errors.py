"""Errors that a user can cause: one line that says what is wrong, where, and what to do."""

__all__ = ["PowerInferError", "UsageError"]


class PowerInferError(Exception):
    """Shown as `error: <message>` on stderr; the process ends with `exit_code`."""

    exit_code = 1


class UsageError(PowerInferError):
    """Options that contradict each other or make no sense."""

    exit_code = 2
