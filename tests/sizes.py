"""Lines of Python by package, against the budget in pyproject.toml: `python tests/sizes.py`."""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from pathlib import Path

MOST = 500
"""Lines of a module that can be read in a sitting."""


def lines(folder: Path) -> dict[str, int]:
    """Lines of every Python file under a folder, by its path relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(folder.rglob("*.py"))
    }


def long_modules(folder: Path) -> dict[str, int]:
    """Those that are longer than `MOST`."""
    return {name: count for name, count in lines(folder).items() if count > MOST}


def main(root: Path) -> int:
    """Print the sizes; gives 1 if a folder is larger than its budget."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    over = False
    for folder, budget in project["tool"].get("lesionlab", {}).get("budget", {}).items():
        packages = Counter[str]()
        for name, count in lines(root / folder).items():
            packages[name.partition("/")[0] if "/" in name else ""] += count
        for package, count in packages.items():
            print(f"{count:>7,}  {folder}/{package}")
        total = packages.total()
        print(f"{total:>7,}  {folder}, budget {budget:,}")
        over |= total > budget
    return int(over)


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
