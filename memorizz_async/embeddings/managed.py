"""`async with` for every embedder: loaded where it begins, closed where it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Managed(ABC):
    """What can be loaded and closed can be held by `async with`."""

    @abstractmethod
    async def load_async(self) -> None:
        """What happens where the block begins."""

    @abstractmethod
    async def close_async(self) -> None:
        """What happens where it ends."""

    async def __aenter__(self) -> Self:
        await self.load_async()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_async()
