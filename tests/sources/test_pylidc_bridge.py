"""pylidc on today's Python and NumPy, and nothing else changed by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lesionlab.sources.lidc.pylidc_bridge import import_pylidc


def test_pylidc_works_where_it_uses_names_that_are_gone() -> None:
    pl = import_pylidc()
    annotation = pl.query(pl.Annotation).first()
    assert annotation.boolean_mask().dtype == bool  # np.bool, np.int
    assert annotation.surface_area > 0  # np.float
    assert annotation.contours[0].to_matrix().dtype == int
    assert import_pylidc() is pl
    assert not hasattr(np, "int")  # for everyone else NumPy stays as it is
    with pytest.raises(NotADirectoryError, match="dicom_path="):
        import_pylidc(dicom_path="nowhere")


def test_a_dicom_path_takes_the_place_of_the_configuration_file(tmp_path: Path) -> None:
    pl = import_pylidc(dicom_path=tmp_path)
    scan = pl.query(pl.Scan).first()
    folder = tmp_path / scan.patient_id / scan.study_instance_uid / scan.series_instance_uid
    folder.mkdir(parents=True)
    assert Path(scan.get_path_to_dicom_files()) == folder
    import_pylidc()  # keeps what was set
    assert Path(scan.get_path_to_dicom_files()) == folder


def test_without_pkg_resources_and_without_images(tmp_path: Path) -> None:
    """As on a machine with setuptools 81 or later, and with the old SciPy name gone."""
    code = (
        "import sys, scipy.ndimage\n"
        "sys.modules.pop('scipy.ndimage.morphology', None)\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('pkg_resources', 'scipy.ndimage.morphology'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "from lesionlab.sources.lidc.pylidc_bridge import import_pylidc\n"
        "pl = import_pylidc()\n"
        "assert 'pkg_resources' not in sys.modules\n"
        "print(pl.query(pl.Scan).count())\n"
        "try: pl.query(pl.Scan).first().to_volume(verbose=False)\n"
        "except RuntimeError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1018\n")
    assert "import_pylidc(dicom_path=…)" in done.stdout
    assert not (tmp_path / ".pylidcrc").exists()
