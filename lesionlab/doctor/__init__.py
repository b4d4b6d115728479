"""What of lesionlab works on this machine: packages, data, stores, device, browser; and what next.

    from lesionlab import doctor
    findings = doctor.examine()
    print(doctor.to_text(findings))

Nothing is loaded that is not needed, nothing is downloaded and nothing is left behind. Findings
hold no word from a DICOM header or from a name below a folder of scans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lesionlab import __version__

__all__ = ["Finding", "State", "examine", "healthy", "to_dict", "to_text"]

State = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: Which part of the report it belongs to.
        what: What was looked at.
        state: `missing` is something that can be added, `problem` something that is broken.
        found: What was found, in words.
        next: What to do next, with the command; "" where there is nothing to do.
        needed: Whether the default way, phantoms with no download, needs it.
    """

    section: str
    what: str
    state: State
    found: str
    next: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """Look at everything, in a few seconds; a check that fails itself is a finding too."""
    from lesionlab.doctor import _checks as checks
    from lesionlab.doctor import _machine as machine

    sections: dict[str, Callable[[], Iterable[Finding]]] = {
        "Python and packages": checks.packages,
        "LIDC-IDRI database": checks.database,
        "Pixel data": checks.pixels,
        "Stores of crops": checks.stores,
        "Device": machine.device,
        "Memory and disk": machine.room,
        "Browser and notebooks": machine.notebooks,
    }
    # importing torch takes longer than all the rest, so another process does it meanwhile
    with machine.looking_for_devices():
        return [f for section, check in sections.items() for f in _safely(section, check)]


def _safely(section: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)
    except Exception as error:  # a report that ends in a traceback helps nobody
        found.append(
            Finding(
                section,
                "this check",
                "problem",
                f"failed itself: {type(error).__name__}: {error}",
                "report it, with this line",
            )
        )
    return found


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing is broken or missing that the default way needs."""
    return all(f.state == "ok" for f in findings if f.needed)


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """What JSON can hold: version, verdict and findings."""
    return {
        "lesionlab": __version__,
        "healthy": healthy(findings),
        "findings": [asdict(f) for f in findings],
    }


def to_text(findings: list[Finding]) -> str:
    """A report to read: a line per finding, and below it what to do."""
    width = max((len(f.what) for f in findings), default=0)
    lines = [f"lesionlab {__version__}"]
    section = ""
    for f in findings:
        if f.section != section:
            section = f.section
            lines += ["", section]
        lines.append(f"  {f.state:<7}  {f.what:<{width}}  {f.found}")
        if f.next:
            lines.append(f"  {'':<7}  {'':<{width}}  → {f.next}")
    broken = [f.what for f in findings if f.needed and f.state != "ok"]
    lines.append("")
    if broken:
        lines.append(f"Broken, and needed for everything: {', '.join(broken)}.")
    else:
        lines.append("All that is needed for phantoms, with no download, is here.")
    return "\n".join(lines)
