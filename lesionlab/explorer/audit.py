"""A form in a page: paste a table, press a button, and read what its numbers rule out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lesionlab import _names
from lesionlab.explorer import _html
from lesionlab.statistics import audit, audit_rows


@dataclass(frozen=True)
class AuditForm:
    """The form, the same in JupyterLab and in a page; its JavaScript stands in `audit.js`."""

    text: str
    cases: int | None

    def to_html(self) -> str:
        """One self-contained piece of HTML that starts itself; the text is escaped."""
        data = {
            "text": self.text, "cases": self.cases, "names": audit.NAMES, "limit": audit.LIMIT,
            "aliases": audit_rows.ALIASES, "empty": sorted(audit.EMPTY), "decimals": audit.DECIMALS,
        }  # fmt: skip
        name = f"ll-{secrets.token_hex(6)}"
        # "<" could end the element, whatever quotes it stands in
        payload = json.dumps(data).replace("<", "\\u003c")
        script = _html._source("audit.js").rstrip()
        return (
            f'<div class="lesionlab-audit" id="{name}">'
            "<p>The form is shown here in a browser that runs JavaScript.</p>"
            f'<script type="module">({script})(document.getElementById("{name}"), {payload});'
            "</script></div>"
        )

    def _repr_mimebundle_(
        self, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
    ) -> dict[str, Any]:
        return {"text/html": self.to_html(), "text/plain": repr(self)}


def audit_form(text: str, *, cases: int | None = None) -> AuditForm:
    """A form in which a table can be pasted and audited; nothing leaves the browser.

    It makes the checks that `lesionlab.statistics.audit_rows` makes of one row with five rates and
    a number of cases. It does not know F1, MCC, counts, runs, or what rows have in common.

    Args:
        text: The table that stands there first, as CSV.
        cases: Number of cases behind each row, where no column n says it.
    """
    if cases is not None:
        _names.whole(1, cases=cases)
    return AuditForm(text, cases)
