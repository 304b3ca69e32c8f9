"""Several requests in flight, results as they come. Daemon threads, so that ctrl-C does not wait for a slow server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_DONE = StopIteration("a worker is done")


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Results in the order in which they are ready. After a failure nothing new is begun; what is under way is still
    delivered, and then the failure raised."""
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()
    for item in items:
        waiting.put(item)

    def work() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                ready.put((function(item), None))
            # Nobody above a thread would hear of it: whatever it is, the reader of the results raises it.
            except BaseException as error:
                stop.set()
                ready.put((None, error))
        ready.put((None, _DONE))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    try:
        yield from _delivered(ready, len(threads))
    finally:
        stop.set()


def _delivered(
    ready: queue.SimpleQueue[tuple[Result | None, BaseException | None]], running: int
) -> Iterator[Result]:
    failure: BaseException | None = None
    while running:
        result, error = ready.get()
        if error is _DONE:
            running -= 1
        elif error is not None:
            failure = failure or error
        else:
            yield result  # type: ignore[misc]
    if failure is not None:
        raise failure
