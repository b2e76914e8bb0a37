"""Helpers around asyncio's tasks."""

import asyncio
from typing import Any


async def settled(task: asyncio.Future[Any]) -> None:
    """Wait for a task's end, whatever it is, where an error of its own would only hide another."""
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()
