"""Whether this system lets as many files be open as the gateway and the server need."""

from __future__ import annotations

import resource
from collections.abc import Iterator

#: mlx-lm sets its own limits to 2048 and this number when it is imported (mlx_lm/utils.py). A process may not
#: raise its hard limit, so under a lower one neither the server nor the tokenizer worker starts.
SERVER_FILES = 4096

#: File descriptors per client connection: its own, and one to the child while its request runs.
_PER_CONNECTION = 2
#: Further descriptors of the gateway: pipes, the log, the state folder, probes, what a library opens.
_OTHERS = 128


def hard_limit() -> int | None:
    """The hard limit of this process on open files; None without one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def shortages(limit: int | None, max_connections: int) -> Iterator[str]:
    """What cannot work under this hard limit, one sentence for each; `max_connections` as in [server]."""
    if limit is None:
        return
    if limit < SERVER_FILES:
        yield (
            f"The hard limit on open files is {limit}, and mlx_lm does not start below {SERVER_FILES}: "
            f"run `ulimit -Hn {SERVER_FILES}` as root before the proxy, or set LimitNOFILE in its service."
        )
    needed = _PER_CONNECTION * max_connections + _OTHERS
    if limit < needed:
        fitting = max(1, (limit - _OTHERS) // _PER_CONNECTION)
        yield (
            f"[server] max_connections = {max_connections} may need {needed} open files, and the limit is "
            f"{limit}: set it to {fitting}, or raise the limit."
        )
