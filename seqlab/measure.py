"""What a computation costs on this machine: the memory of its tensors, and how a cost grows."""

import math
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(f: Callable[[], Any]) -> int:
    """The most bytes that tensors made by f() take up at one time.

    What f is given is not counted, nor is the memory inside a single operation of torch: an
    attention that works tile by tile within one operation shows its inputs' copies and its output.
    """
    with _Alive() as alive:
        f()
    return alive.peak


def growth(costs: dict[int, float]) -> tuple[float, float]:
    """The exponent p of the least-squares fit cost = c T^p to {T: cost}, and its standard error.

    1 is linear, 2 quadratic. The error is how far the costs lie from such a line; two lengths fit
    every line, and have none.
    """
    xs, ys = ([math.log(u) for u in us] for us in (costs.keys(), costs.values()))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((a - x) ** 2 for a in xs)
    p = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread
    left = sum((b - y - p * (a - x)) ** 2 for a, b in zip(xs, ys, strict=True))
    return p, math.sqrt(left / max(len(xs) - 2, 1) / spread)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages made inside it, until they are freed."""

    def __init__(self):
        super().__init__()
        self.known: dict[int, Any] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, Tensor):
                self.note(x.untyped_storage(), args)
        return made

    def note(self, storage, args):
        key, n = storage._cdata, storage.nbytes()
        given = any(isinstance(x, Tensor) and x.untyped_storage()._cdata == key for x in args)
        if given or key in self.known or not n:
            return
        self.known[key] = weakref.ref(storage, lambda _: self.freed(key, n))
        self.bytes += n
        self.peak = max(self.peak, self.bytes)

    def freed(self, key, n):
        if self.known.pop(key, None) is not None:
            self.bytes -= n
