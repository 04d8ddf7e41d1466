"""What torch is asked for, seen before it is done."""

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DispatchMode"]


class DispatchMode(TorchDispatchMode):
    """torch's own, without what keeps its compiler out of it: to import that takes seconds, and each call is slower."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
