"""DICOM: CT series to HU with geometry, LIDC-IDRI's lesions cut out of whole scans, and a writer.

    from lesionlab.sources import dicom
    dicom.find_series("downloads")                    # which series are there
    dicom.identity("downloads")                       # which header fields may identify somebody
    volume = dicom.read_series("downloads/LIDC-IDRI-0078/…")
    scans = dicom.Dicom("downloads")                  # LIDC scans, found by SeriesInstanceUID
    scans.crop("LIDC-IDRI-0078-S0001-N02")            # real HU and the readers' masks

Messages hold file names and numbers of the geometry, and no text, date or UID from a header.
Standard: DICOM PS3.3 (A.3 CT Image IOD, A.38 Enhanced CT, C.7.6.2 Image Plane, C.7.5.1 Padding).
"""

from lesionlab.sources.dicom._copy import copy_series as copy_series
from lesionlab.sources.dicom._files import BadFileError as BadFileError
from lesionlab.sources.dicom._files import DicomError as DicomError
from lesionlab.sources.dicom._identity import identity as identity
from lesionlab.sources.dicom._lidc import Dicom as Dicom
from lesionlab.sources.dicom._series import Volume as Volume
from lesionlab.sources.dicom._series import find_series as find_series
from lesionlab.sources.dicom._series import read_series as read_series
from lesionlab.sources.dicom._series import write_series as write_series
