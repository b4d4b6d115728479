"""The wheel in a clean environment of each Python that is there: `make wheels`.

Installs what the quick start of the README needs, without torch, and runs the chapters that need
none by plain papermill in an empty folder. Takes some minutes and about 1 GB a Python, so it is not
among the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
CHAPTERS = ("lidc_idri", "atlas")
EXTRAS = "images,lab"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    print("   ", *command[1:], flush=True)
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def attempt(python: str, wheel: Path, folder: Path) -> str:
    run(python, "-m", "venv", "venv", cwd=folder)
    own = folder / "venv" / "bin"
    constraints = ["--constraint", ROOT / "constraints.txt"] if python == PYTHONS[0] else []
    requirement = f"lesionlab[{EXTRAS}] @ {wheel.as_uri()}"
    run(own / "python", "-m", "pip", "install", "-q", *constraints, requirement, cwd=folder)
    run(own / "python", "-m", "pip", "check", cwd=folder)
    run(own / "lesionlab", "notebooks", "copy", "mine", cwd=folder)
    for name in CHAPTERS:
        # papermill takes the kernel called python3, which could be another environment's
        prefix = {"JUPYTER_PATH": str(own.parent / "share" / "jupyter"), "LESIONLAB_SET": "smoke"}
        notebook = folder / "mine" / "notebooks" / f"{name}.ipynb"
        run(own / "papermill", notebook, f"{name}.ipynb", "--no-progress-bar", cwd=folder, **prefix)
    return f"{', '.join(CHAPTERS)} ran"


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="lesionlab-wheels-") as scratch:
        place = Path(scratch)
        build = ("-m", "build", "--wheel", "--no-isolation", "-o", place, ROOT)
        run(sys.executable, *build, cwd=ROOT)
        (wheel,) = place.glob("*.whl")
        for python in PYTHONS:
            program = shutil.which(python)
            if program is None:
                print(f"{python}: not there, not tried")
                continue
            folder = place / python
            folder.mkdir()
            try:
                print(f"{python}: {attempt(program, wheel, folder)}", flush=True)
            except subprocess.CalledProcessError as error:
                failed += 1
                print(f"{python}: FAILED\n{error.stdout}{error.stderr}", flush=True)
            shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    sys.exit(main())
