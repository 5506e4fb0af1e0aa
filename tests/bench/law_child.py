"""The real child with one thing more: on SIGUSR1 MLX's peak starts anew. Run: law_child.py CHILD ARGUMENT...

So several measurements can share a child, and each has its own peak.
"""

from __future__ import annotations

import runpy
import signal
import sys


def main() -> None:
    import mlx.core as mx

    signal.signal(signal.SIGUSR1, lambda *_: mx.reset_peak_memory())
    program = sys.argv.pop(1)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
