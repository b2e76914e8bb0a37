"""Helpers around asyncio's tasks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(task: asyncio.Future[Any]) -> None:
    """Wait for a task's end, whatever it is, where an error of its own would only hide another."""
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()


async def within(seconds: float, sleep: Callable[[float], Awaitable[None]], work: Awaitable[T]) -> T:
    """What `work` returns; raises TimeoutError when that takes longer, and then it was cancelled."""
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
    """Run two that use the same buffer: returns, or raises, only when neither uses it any more."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    await asyncio.wait(tasks)
    if not tasks[1].cancelled() and tasks[1].exception() is not None and tasks[0].exception() is None:
        tasks[1].result()
    return tasks[0].result()
