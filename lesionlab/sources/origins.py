"""Where the real pixels come from: name, address, licence and size of each public set.

All sets show patients of LIDC-IDRI, so its licence holds for all: CC BY 3.0, as
doi:10.7937/K9/TCIA.2015.LO9QL9SX states it. The copies on Kaggle and GitHub bring no licence file
for the pixels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LICENCE = "CC BY 3.0"
CITE = (
    "Armato et al. 2015, doi:10.7937/K9/TCIA.2015.LO9QL9SX, and "
    "Armato et al., Med Phys 38 (2011) 915–931, doi:10.1118/1.3528204"
)
COLLECTION = "https://www.cancerimagingarchive.net/collection/lidc-idri/"


@dataclass(frozen=True)
class Mirror:
    """A commit of a public repository that holds a set, file by file."""

    url: str  # the whole commit as tar.gz; a commit never changes, so neither do its files
    folder: str  # where in the repository the set lies
    target: str  # the zip that `lesionlab data fetch` makes: `root/…` for every `folder/…`
    root: str
    n_files: int
    n_bytes: int  # of all files together
    # SHA-256 over one line for each file, `<SHA-256 of its content>  <name>`, sorted by the names,
    # which are relative to `folder`, as `lesionlab._files.sha256_tree` gives it
    digest: str


@dataclass(frozen=True)
class Origin:
    """One public set."""

    name: str  # what `lesionlab data fetch` calls it
    title: str  # what sentences call it, in the plural
    what: str  # what it is
    addresses: tuple[str, ...]  # where to find it, the best first
    note: str  # what else there is to know about the addresses
    size: str
    variable: str  # the environment variable that names it
    expected: str  # what the variable points at
    mirror: Mirror | None = None  # what `fetch` downloads; None if it has to be got by hand

    def rows(self) -> list[tuple[str, str]]:
        """All of it, as lines of two cells."""
        where = [("from" if i == 0 else "or from", url) for i, url in enumerate(self.addresses)]
        return [
            ("set", f"{self.title}: {self.what}"),
            *where,
            ("", self.note),
            ("licence", f"{LICENCE}, which is LIDC-IDRI's"),
            ("to cite", CITE),
            ("size", self.size),
        ]

    def next_step(self) -> str:
        """The command to run, or where to look."""
        export = f"export {self.variable}=/path/to/it"
        if self.mirror:
            return f"Run: lesionlab data fetch {self.name}, or if you have it: {export}"
        return f"{self.note}. Run: {export}"

    def missing(self) -> str:
        """What to tell someone who asks for it and does not have it."""
        return (
            f"the {self.title} are not set up: {self.variable} is not set. They are {self.what} "
            f"({self.size}, {LICENCE}, {' or '.join(self.addresses)}). {self.next_step()}, where "
            f"expected is {self.expected}. Phantoms need no download."
        )


def data_folder() -> Path:
    """Where fetched sets are kept if nothing else is said: the user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("lesionlab"))


def named(origin: Origin) -> Path | None:
    """Where a set lies: as its variable says, or where it was fetched to; None if neither."""
    if text := os.environ.get(origin.variable):
        return Path(text).expanduser()
    fetched = data_folder() / origin.mirror.target if origin.mirror else None
    return fetched if fetched and fetched.is_file() else None


ANNO = "LESIONLAB_ANNO"
"""The environment variable that names a tree of `.anno` files of the user's own."""
NIFTI = "LESIONLAB_NIFTI"
"""The one that names a folder of the user's own with images, masks and `labels.csv`."""


def own(variable: str) -> Path | None:
    """What a variable for data of the user's own names, if anything."""
    text = os.environ.get(variable)
    return Path(text).expanduser() if text else None


SLICES = Origin(
    name="slices",
    title="LIDC-IDRI slices",
    what="2,630 nodules as 128 × 128 pictures of 8 bits, with a mask for each reader",
    addresses=(
        "https://github.com/nikeboke/lidc_project",
        "https://www.kaggle.com/datasets/zhangweiled/lidcidri",
    ),
    note="The repository says that it holds the set from Kaggle, where an account is needed; it "
    "has no licence file of its own",
    size="170 MB",
    variable="LESIONLAB_LIDC_SLICES",
    expected="a zip or a folder that holds "
    "LIDC-IDRI-xxxx/nodule-k/{images,mask-0,mask-1,mask-2,mask-3}/slice-s.png",
    mirror=Mirror(
        url="https://codeload.github.com/nikeboke/lidc_project/tar.gz/773f8ad94d12841a0b815e118a7a75659cdd294c",
        folder="data/LIDC-IDRI-slices",
        target="lidc-idri-slices.zip",
        root="LIDC-IDRI-slices",
        n_files=77_740,
        n_bytes=153_064_106,
        digest="62cb0144458c6ffd8d21ce147b7f3e97d9f90a9e5432ad5747ccda6c124200a7",
    ),
)
VOLUMES = Origin(
    name="volumes",
    title="LIDC-IDRI volumes",
    what="994 nodules as small 3D crops (NIfTI) in exact HU",
    addresses=("https://github.com/PabloLION/ct-slicing",),
    note="Folder data/VOIs/image. The repository's code is GPL-2, the pixels are LIDC-IDRI's. The "
    "download is some 150 MB by our estimate, as the repository also holds three whole scans",
    size="29 MB",
    variable="LESIONLAB_LIDC_VOLUMES",
    expected="a zip or a folder of files LIDC-IDRI-xxxx_R_n.nii.gz",
    mirror=Mirror(
        url="https://codeload.github.com/PabloLION/ct-slicing/tar.gz/07d32abf6d8b8f1c61a0dccb685affa29b1512af",
        folder="data/VOIs/image",
        target="lidc-idri-volumes.zip",
        root="lidc-idri-volumes",
        n_files=994,
        n_bytes=28_583_733,
        digest="2a7b1c019fb38e62e024fd60da3b6832491a80dd6750e5de9685178b807f37a3",
    ),
)
DIAGNOSES = Origin(
    name="diagnoses",
    title="LIDC-IDRI diagnoses",
    what="TCIA's sheet of what became of 157 patients, tcia-diagnosis-data-2012-04-20.xls",
    addresses=(
        COLLECTION,
        "https://wiki.cancerimagingarchive.net/pages/viewpage.action?pageId=1966254",
    ),
    note="Look for tcia-diagnosis-data-2012-04-20.xls under the collection's diagnosis data",
    size="46 kB",
    variable="LESIONLAB_LIDC_DIAGNOSES",
    expected="the file tcia-diagnosis-data-2012-04-20.xls",
)
DICOM = Origin(
    name="dicom",
    title="LIDC-IDRI scans",
    what="1,018 whole CT scans as DICOM files; any number of them will do",
    addresses=(COLLECTION,),
    note="TCIA has a download program of its own for them",
    size="125 GB",
    variable="LESIONLAB_LIDC_DICOM",
    expected="a folder above the DICOM files, in any layout",
)

ORIGINS = {origin.name: origin for origin in (SLICES, VOLUMES, DIAGNOSES, DICOM)}
