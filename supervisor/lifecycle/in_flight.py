"""Pure. A request that was in flight when the child died, as crash reports show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InFlight:
    """One request in flight at a death. Numbers and names only, no text of it.

    `phase`: prefill or decode. `progress`: prompt tokens (processed, total), once the child had told.
    `running_s`: since it was given to the child. `suspect`: the death is blamed on it, with others perhaps.
    `refused_s`: how long it will be refused from now on, if it was sentenced. `predicted_bytes` were
    reserved for it, and by `seen_bytes` the child's memory rose while it ran; None is not known.
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
