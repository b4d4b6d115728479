"""Where the real pixels come from: name, address, licence and size of each public set.

What is said of each stands in `origins.toml`.
All sets show patients of LIDC-IDRI, so its licence holds for all: CC BY 3.0, as
doi:10.7937/K9/TCIA.2015.LO9QL9SX states it. The copies on Kaggle and GitHub bring no licence file
for the pixels.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

LICENCE = "CC BY 3.0"
CITE = (
    "Armato et al. 2015, doi:10.7937/K9/TCIA.2015.LO9QL9SX, and "
    "Armato et al., Med Phys 38 (2011) 915–931, doi:10.1118/1.3528204"
)


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


def _read() -> Iterator[Origin]:
    text = resources.files("lesionlab.sources").joinpath("origins.toml").read_text("utf-8")
    for name, about in tomllib.loads(text).items():
        mirror = Mirror(**about.pop("mirror")) if "mirror" in about else None
        yield Origin(name=name, mirror=mirror, **about | {"addresses": tuple(about["addresses"])})


ORIGINS = {origin.name: origin for origin in _read()}
SLICES, VOLUMES, DIAGNOSES, DICOM = ORIGINS.values()
