"""Pure. A request that was in flight when the child died, as crash reports show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InFlight:
    """One request in flight at a death: numbers and names only, none of its text.

    `phase`: prefill or decode. `progress`: prompt tokens (processed, total), once the child has reported
    any. `running_s`: seconds since it was sent to the child. `suspect`: the death is blamed on it, perhaps
    together with others. `refused_s`: seconds for which it will be refused from now on, if it was
    quarantined. `predicted_bytes`: its memory reservation. `seen_bytes`: rise of the child's memory while it
    ran. Each is None where it is not known.
    """

    answer_id: str
    fingerprint: str
    prompt_tokens: int
    max_tokens: int
    completion_tokens: int
    phase: str
    progress: tuple[int, int] | None
    attempts: int
    running_s: float
    suspect: bool = False
    refused_s: float | None = None
    predicted_bytes: int | None = None
    seen_bytes: int | None = None
