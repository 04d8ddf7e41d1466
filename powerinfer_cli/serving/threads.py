"""What takes long for a request, away from the event loop: large requests one after another, so that neither memory nor
threads are theirs alone, and small ones beside them.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from powerinfer_cli.serving.http.requests import current

__all__ = ["LARGE", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")

LARGE = 1 << 18  # bytes of a request that has to wait for others like it
_large = ThreadPoolExecutor(1, thread_name_prefix="large requests")


async def in_thread(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """The result of work(*args, **options). What has begun goes on to its end where this is cancelled."""
    record = current.get()
    pool = _large if record is not None and record.n_bytes > LARGE else None
    return await asyncio.get_running_loop().run_in_executor(
        pool, partial(copy_context().run, partial(work, *args, **options))
    )
