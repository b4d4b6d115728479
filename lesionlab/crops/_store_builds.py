"""Making the crops of many lesions, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

from lesionlab.crops import Crop


class BuildError(RuntimeError):
    """No crop could be made of a lesion; the message names it."""


MakeCrop: TypeAlias = Callable[[str], Crop | tuple[Crop, Mapping[str, Any]]]


@dataclass(frozen=True)
class Made:
    """A crop with its columns, or, where `crop` is None, why there is none."""

    lesion_id: str
    crop: Crop | None
    columns: Mapping[str, Any]
    reason: str = ""
    trace: str = ""
    error: BaseException | None = None


def attempt(make_crop: MakeCrop, lesion_id: str) -> Made:
    """What `make_crop` gives for a lesion, or why it gave nothing.

    Raises:
        TypeError: It gave something that is no crop.
        ValueError: It gave the crop of another lesion.
    """
    try:
        made = make_crop(lesion_id)
    except MemoryError:
        raise  # says nothing about the lesion
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Made(lesion_id, None, {}, reason, traceback.format_exc(), error)
    crop, columns = made if isinstance(made, tuple) else (made, {})
    if not isinstance(crop, Crop):
        raise TypeError(f"make_crop({lesion_id!r}): expected a Crop, got {crop!s:.80}")
    if crop.lesion_id != lesion_id:
        raise ValueError(f"make_crop({lesion_id!r}): got the crop of {crop.lesion_id!r}")
    return Made(lesion_id, crop, columns)


def make_all(
    make_crop: MakeCrop, lesion_ids: Sequence[str], processes: int
) -> Generator[Made, None, None]:
    """Attempts at all lesions, in their order, a few ahead of what is asked for.

    Args:
        make_crop: Gives the crop of a lesion. With several processes it is sent to each once.
        lesion_ids: Which lesions.
        processes: How many at the same time; with 1, in this process.

    Raises:
        TypeError: `make_crop` cannot be sent to another process.
        RuntimeError: A process ended without a word.
    """
    if processes == 1 or not lesion_ids:
        for lesion_id in lesion_ids:
            yield attempt(make_crop, lesion_id)
        return
    try:
        ForkingPickler.dumps(make_crop)
    except Exception as error:
        raise TypeError(
            f"make_crop={make_crop!r}: expected a function of a module, or a functools.partial "
            f"of one, that can be sent to another process; {error}"
        ) from error
    waiting: deque[tuple[str, Future[Made]]] = deque()
    # spawn is the same on every system, and safe in a process that has threads
    with ProcessPoolExecutor(
        min(processes, len(lesion_ids)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(make_crop,),
    ) as pool:
        try:
            for lesion_id in lesion_ids:
                waiting.append((lesion_id, pool.submit(_attempt_here, lesion_id)))
                if len(waiting) > processes + 1:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process ended without a word while making {lesion_id} or one of the "
                f"{processes + 1} lesions before it: it was killed, ran out of memory, or could "
                "not import make_crop (call build under `if __name__ == '__main__':`)"
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()


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


def _attempt_here(lesion_id: str) -> Made:
    made = attempt(_make_crop, lesion_id)
    # not every exception survives the way to another process; its text does
    return made if made.error is None else Made(lesion_id, None, {}, made.reason, made.trace)
