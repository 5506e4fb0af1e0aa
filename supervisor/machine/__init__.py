"""What the operating system reports about this machine and about processes.

Everything that differs between Linux and macOS is here, so that the rest of the project does not ask for the
platform. `system` measures memory, processes and ports; `memory_limits` collects what limits memory besides
RAM (control groups, Metal's wired limit, an NVIDIA card) into the `Readings` from which the ceiling is worked
out; `versions` names the installed mlx and mlx-lm.

All functions ask anew each time and keep no state. A function returns None where the system does not tell,
and callers must treat that as unknown, never as zero. Functions that walk the process table take 10 ms and
more; callers on the event loop use a thread for them.

The macOS half follows Apple's headers and man pages; it was written on Linux and has not been run on a Mac.

May import `supervisor.memory_model` only.
"""
