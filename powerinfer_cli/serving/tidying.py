"""Memory that requests needed goes back to the system when they are over, also where no single one was large."""

import asyncio

from powerinfer_cli.serving.service import Service
from powerinfer_cli.system.memory import resident_memory, return_memory

__all__ = ["tidying"]

EVERY_S = 5.0
WORTH = 4 << 20  # bytes more than there were after it was done last; doing it takes some milliseconds


async def tidying(service: Service) -> None:
    """Until cancelled."""
    settled = 0
    while (now := resident_memory()) is not None:  # not Linux
        if service.state == "ready" and now > settled + WORTH:
            await asyncio.to_thread(_tidy, service)
            settled = resident_memory() or 0
        await asyncio.sleep(EVERY_S)


def _tidy(service: Service) -> None:
    """Words and grammars are known again as soon as they come again."""
    service.model.tokenizer.forget_words()
    service.model.grammars.keep_few()
    return_memory()
