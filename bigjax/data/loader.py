"""Batches ahead of time: worker threads fetch them by step while the device computes."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(fetch: Callable[[int], T], start: int, stop: int, workers: int, ahead: int = 4) -> Iterator[T]:
    """Yields `fetch(start)`, ..., `fetch(stop - 1)` in this order, up to `ahead` of them fetched in advance.

    What comes does not depend on `workers` or `ahead`, because every batch is addressed by its step alone. An error
    in a worker is raised here, at its step.
    """
    if workers == 0:
        yield from map(fetch, range(start, stop))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        pending: deque[Future[T]] = deque()
        for step in range(start, stop):
            pending.append(pool.submit(fetch, step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
