"""Helpers for asyncio's tasks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(task: asyncio.Future[Any]) -> None:
    """Wait until a task ends, and ignore its error, which would only hide an earlier one."""
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()


async def within(seconds: float, sleep: Callable[[float], Awaitable[None]], work: Awaitable[T]) -> T:
    """Return the result of `work`. After `seconds`, cancel it and raise TimeoutError."""
    task, timer = asyncio.ensure_future(work), asyncio.ensure_future(sleep(seconds))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        timer.cancel()
        task.cancel()
    await settled(task)
    raise TimeoutError


async def beside(first: Awaitable[T], second: Awaitable[object]) -> T:
    """Run two operations on the same buffer. Returns or raises only after both ended, when the buffer is free."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    await asyncio.wait(tasks)
    if not tasks[1].cancelled() and tasks[1].exception() is not None and tasks[0].exception() is None:
        tasks[1].result()
    return tasks[0].result()
