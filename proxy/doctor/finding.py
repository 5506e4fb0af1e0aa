"""One line of `mlxguard-proxy doctor`: what was looked at, what was found, what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_VERDICT, _CHECK = 9, 18


class CheckVerdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check came to. `advice`: a sentence; empty where everything is well."""

    check: str
    verdict: CheckVerdict
    found: str
    advice: str = ""

    def text(self) -> str:
        """A line, and one more where there is advice."""
        line = f"{self.verdict:<{_VERDICT}}{self.check:<{_CHECK}}{self.found}"
        return f"{line}\n{'':{_VERDICT + _CHECK}}{self.advice}" if self.advice else line


def ok(check: str, found: str) -> CheckResult:
    return CheckResult(check, CheckVerdict.OK, found)


def warning(check: str, found: str, advice: str) -> CheckResult:
    return CheckResult(check, CheckVerdict.WARNING, found, advice)


def failed(check: str, found: str, advice: str) -> CheckResult:
    return CheckResult(check, CheckVerdict.FAILED, found, advice)


def conclusion(findings: Sequence[CheckResult]) -> str:
    """The last line."""
    counts = {verdict: sum(each.verdict is verdict for each in findings) for verdict in CheckVerdict}
    if len(findings) == counts[CheckVerdict.OK]:
        return "Everything works here."
    words = {CheckVerdict.WARNING: "warning" if counts[CheckVerdict.WARNING] == 1 else "warnings"}
    return ", ".join(f"{count} {words.get(verdict, verdict)}" for verdict, count in counts.items() if count)


def document(findings: Sequence[CheckResult]) -> dict[str, Any]:
    """For programs."""
    return {"works": works(findings), "checks": [asdict(each) for each in findings]}


def works(findings: Sequence[CheckResult]) -> bool:
    """Nothing failed."""
    return all(each.verdict is not CheckVerdict.FAILED for each in findings)
