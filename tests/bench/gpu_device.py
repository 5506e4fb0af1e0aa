"""The GPU's memory: how much is free, and holding some of it, as another program would.

By the driver's own library, so that nothing needs to be installed for it. Signatures are those of cuda.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

#: Held in pieces: one large piece may not fit where many do.
_PIECE = 256 * 2**20
_SMALLEST_PIECE = 2 * 2**20


class NoGpu(Exception):
    """Why there is none."""


class Gpu:
    """The first CUDA device. Raises NoGpu. For one thread: the context belongs to the one that made it."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise NoGpu("no NVIDIA driver (libcuda.so.1) on this machine") from None
        self._held: list[tuple[ctypes.c_uint64, int]] = []
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(100)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode()
        #: Bytes in use before anything of ours runs: other programs, and this context.
        self.at_rest = self.total - self.free

    def _call(self, name: str, *arguments: Any) -> None:
        function: Callable[..., int] = getattr(self._cuda, name)
        if code := function(*arguments):
            raise NoGpu(f"{name} failed with CUDA error {code}")

    def _info(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    @property
    def free(self) -> int:
        return self._info()[0]

    @property
    def total(self) -> int:
        return self._info()[1]

    @property
    def held(self) -> int:
        return sum(size for _, size in self._held)

    @property
    def others(self) -> int:
        """Bytes that others than this process use now, what was in use at rest left out."""
        return self.total - self.free - self.at_rest - self.held

    def leave(self, size: int) -> None:
        """Hold memory until at most `size` bytes are free."""
        piece = _PIECE
        while (spare := self.free - size) > 0 and piece >= _SMALLEST_PIECE:
            address, take = ctypes.c_uint64(), min(piece, max(spare, _SMALLEST_PIECE))
            if self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(take)):
                piece //= 2
            else:
                self._held.append((address, take))

    def give_back(self) -> None:
        """Let go of all that is held."""
        while self._held:
            self._call("cuMemFree_v2", self._held.pop()[0])
