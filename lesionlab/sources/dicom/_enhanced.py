"""Enhanced CT (PS3.3, A.38 and A.70): one file of many frames, each read as a slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag

from lesionlab.sources.dicom._files import (
    CT_IMAGE,
    FRAME_TAGS,
    MAX_PIXELS,
    BadFileError,
    Header,
    Pixels,
    Slice,
    pixels_of,
    quiet,
    slice_of,
)

ENHANCED = ("Enhanced CT Image Storage", "Legacy Converted Enhanced CT Image Storage")
MAX_FRAMES = 4096
MAX_FILE = 1 << 30  # bytes
_BOTH = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# the functional groups in which stands what the header of a single slice says
_GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "CTReconstructionSequence", "FrameContentSequence",
    "CTImageFrameTypeSequence",
)  # fmt: skip
_OWN = ("FrameType", "TemporalPositionIndex", "FrameAcquisitionNumber")  # named otherwise there
_TAGS = {int(Tag(keyword)) for keyword in (*FRAME_TAGS, *_OWN)}


def _taken(dataset: Dataset) -> Any:
    """What slices and pixels are made from, as it stands in the file."""
    return {tag: dataset.get_item(tag) for tag in _TAGS & set(dataset.keys())}


class Enhanced:
    """An open file.

    Raises:
        BadFileError: It is damaged, or has no place for a frame of it.
    """

    @quiet()
    def __init__(self, path: Path, *, with_pixels: bool = False) -> None:
        self.path = path
        tags = [*FRAME_TAGS, "NumberOfFrames"]
        if not with_pixels:
            tags.remove("PixelData")
        self._header = header = Header(path, tags, nested=_BOTH, most=MAX_FILE)
        self._n = header.whole("NumberOfFrames", 1, MAX_FRAMES)
        shared, self._own = (header.items(header.dataset, keyword) for keyword in _BOTH)
        self._shared = self._flat(shared[0] if shared else Dataset())
        if len(self._own) != self._n:
            raise header.error("PerFrameFunctionalGroupsSequence has not an item for each frame")
        self._pixels = self._split() if with_pixels else []

    def _flat(self, groups: Dataset) -> Dataset:
        """What functional groups say, as a single slice would say it."""
        flat = Dataset()
        for keyword in _GROUPS:
            for item in self._header.items(groups, keyword)[:1]:
                flat.update(_taken(item))
        return flat

    def _frame(self, k: int) -> Header:
        """The header of a frame, as that of a single slice."""
        whole = self._header.dataset
        made: Any = Dataset()
        made.update(_taken(whole))
        for name in ("PixelData", "NumberOfFrames"):
            made.pop(name, None)
        made.update(self._shared)
        made.update(self._flat(self._own[k]))
        made.SOPClassUID, made.InstanceNumber, made.file_meta = CT_IMAGE, k + 1, whole.file_meta
        return Header(self.path, [], dataset=made)

    @quiet()
    def slices(self) -> list[Slice]:
        """What is said of each frame that is no localizer."""
        found = []
        for k in range(self._n):
            header = self._frame(k)
            one = slice_of(header, frame=k)
            if isinstance(one, Slice) and "LOCALIZER" not in header.words("FrameType"):
                _, time, acquisition = map(header.quietly, _OWN)
                found.append(replace(one, phase=(time, acquisition)))
        return found

    def _split(self) -> list[bytes]:
        """The stored pixels of each frame."""
        header = self._header
        rows, columns = (header.whole(side, 1, MAX_PIXELS) for side in ("Rows", "Columns"))
        size = rows * columns * header.whole("BitsAllocated", 8, 32) // 8
        pixels = (header.values("PixelData") or [b""])[0]
        self._packed = header.syntax().is_compressed
        try:
            if self._packed:
                frames = list(generate_frames(pixels, number_of_frames=self._n))
            else:
                frames = [pixels[k * size : (k + 1) * size] for k in range(self._n)]
        except Exception:
            frames = []
        if len(frames) != self._n or not all(frames):
            raise header.error(f"its pixels are not those of {self._n} frames: damaged")
        del header.dataset.PixelData
        return frames

    @quiet()
    def pixels(self, k: int) -> Pixels:
        """The pixels of a frame; errors as of `read_pixels`."""
        header, frame = self._frame(k), self._pixels[k]
        header.dataset.add_new("PixelData", "OB" if self._packed else "OW", frame)
        if self._packed:
            header.dataset["PixelData"].value = encapsulate([frame])
            header.dataset["PixelData"].is_undefined_length = True
        try:
            return pixels_of(header)
        except BadFileError as error:
            raise BadFileError(self.path, f"frame {k + 1}: {error.reason}") from None
