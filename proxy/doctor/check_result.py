"""The result of one check of `mlxguard-proxy doctor`: verdict, what was found, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

#: Widths of the first two columns, in characters.
_VERDICT, _CHECK = 9, 18


class CheckVerdict(StrEnum):
    """How a check ended; a warning does not keep the proxy from working."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `advice` is a sentence, or empty if everything is well."""

    check: str
    verdict: CheckVerdict
    found: str
    advice: str = ""

    def text(self) -> str:
        """A line of output, and another one if there is advice."""
        line = f"{self.verdict:<{_VERDICT}}{self.check:<{_CHECK}}{self.found}"
        return f"{line}\n{'':{_VERDICT + _CHECK}}{self.advice}" if self.advice else line


def ok(check: str, found: str) -> CheckResult:
    return CheckResult(check, CheckVerdict.OK, found)


def warning(check: str, found: str, advice: str) -> CheckResult:
    return CheckResult(check, CheckVerdict.WARNING, found, advice)


def failed(check: str, found: str, advice: str) -> CheckResult:
    return CheckResult(check, CheckVerdict.FAILED, found, advice)


def conclusion(results: Sequence[CheckResult]) -> str:
    """The last line of output: how many checks ended how."""
    counts = {verdict: sum(each.verdict is verdict for each in results) for verdict in CheckVerdict}
    if len(results) == counts[CheckVerdict.OK]:
        return "Everything works here."
    words = {CheckVerdict.WARNING: "warning" if counts[CheckVerdict.WARNING] == 1 else "warnings"}
    return ", ".join(f"{count} {words.get(verdict, verdict)}" for verdict, count in counts.items() if count)


def document(results: Sequence[CheckResult]) -> dict[str, Any]:
    """The results as JSON."""
    return {"works": works(results), "checks": [asdict(each) for each in results]}


def works(results: Sequence[CheckResult]) -> bool:
    """Whether no check failed."""
    return all(each.verdict is not CheckVerdict.FAILED for each in results)
