"""One line of `mlxguard-proxy doctor`: what was looked at, what was found, what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_VERDICT, _CHECK = 9, 18


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to. `advice`: a sentence; empty where everything is well."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""

    def text(self) -> str:
        """A line, and one more where there is advice."""
        line = f"{self.verdict:<{_VERDICT}}{self.check:<{_CHECK}}{self.found}"
        return f"{line}\n{'':{_VERDICT + _CHECK}}{self.advice}" if self.advice else line


def ok(check: str, found: str) -> Finding:
    return Finding(check, Verdict.OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Verdict.WARNING, found, advice)


def failed(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Verdict.FAILED, found, advice)


def conclusion(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = {verdict: sum(each.verdict is verdict for each in findings) for verdict in Verdict}
    if len(findings) == counts[Verdict.OK]:
        return "Everything works here."
    words = {Verdict.WARNING: "warning" if counts[Verdict.WARNING] == 1 else "warnings"}
    return ", ".join(f"{count} {words.get(verdict, verdict)}" for verdict, count in counts.items() if count)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs."""
    return {"works": works(findings), "checks": [asdict(each) for each in findings]}


def works(findings: Sequence[Finding]) -> bool:
    """Nothing failed."""
    return all(each.verdict is not Verdict.FAILED for each in findings)
