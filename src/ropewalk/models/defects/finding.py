"""One thing that is wrong, or worth knowing, in a configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """`message` gives the values and what they do, `fix` the way out; `repairable` says that a repair mends it.

    An error makes some reader compute something else than the file means, or crash. A warning holds in particular
    readers or uses. A note is worth knowing and nothing to mend.
    """

    id: str
    severity: Severity
    message: str
    fix: str
    repairable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


def sorted_findings(findings: list[Finding]) -> list[Finding]:
    """Errors first, each finding once."""
    return sorted(dict.fromkeys(findings), key=lambda finding: ORDER.index(finding.severity))
