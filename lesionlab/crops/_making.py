"""Making the crops of many lesions, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from lesionlab.crops import Crop

MakeCrop = Callable[[str], Crop]
Item = TypeVar("Item")
Result = TypeVar("Result")


class BuildError(RuntimeError):
    """No crop could be made of a lesion; the message names it."""


def make_all(
    make_crop: MakeCrop, lesion_ids: Sequence[str], processes: int
) -> Generator[Crop | BuildError, None, None]:
    """The crops of all lesions in their order, or why there is none."""
    if processes == 1:
        yield from (_attempt(make_crop, name) for name in lesion_ids)
        return
    # spawn is the same on every system, and safe in a process that has threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (make_crop,)) as pool:
        try:
            yield from ahead(pool, _attempt_here, lesion_ids, processes + 1)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process ended while it made a crop: it was killed, ran out of memory, or could "
                "not import make_crop (call build under `if __name__ == '__main__':`)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], n: int
) -> Iterator[Result]:
    """Results of a pool in the order of the items, at most `n` ahead of what is asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > n:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _attempt(make_crop: MakeCrop, lesion_id: str) -> Crop | BuildError:
    try:
        crop = make_crop(lesion_id)
    except MemoryError:
        raise  # says nothing about the lesion
    except Exception as error:
        # as text, which survives the way to another process; not every exception does, and a file
        # name in it may be no Unicode
        reason = f"{lesion_id}: {type(error).__name__}: {error}".encode(errors="replace").decode()
        failure = BuildError(reason)
        failure.add_note(traceback.format_exc())
        return failure
    if not isinstance(crop, Crop) or crop.lesion_id != lesion_id:
        raise ValueError(f"make_crop({lesion_id!r}): expected its crop, got {crop!s:.80}")
    return crop


_make_crop: MakeCrop


def _start(make_crop: MakeCrop) -> None:
    global _make_crop
    _make_crop = make_crop
    # a killed parent tells its workers nothing: they would wait for ever
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt_here(lesion_id: str) -> Crop | BuildError:
    return _attempt(_make_crop, lesion_id)
