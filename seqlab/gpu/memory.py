"""Copies of a launch's tensors, each behind a window of addresses that exist only here.

So each address a kernel forms still says which argument it came from, an access outside that
argument is known before any memory is touched, and the caller's tensors stay as they were until
`write_back`.
"""

import numpy as np
import torch

from seqlab.gpu.events import Argument

WINDOW = 44  # bits of address in each argument's window: 8 TiB to either side of its first element


class Pointer:
    """Stands for a tensor where Triton asks for its address and type."""

    def __init__(self, dtype: torch.dtype, address: int):
        self.dtype, self.address = dtype, address

    def data_ptr(self) -> int:
        return self.address


class Astray(Exception):
    """An address that is in no argument's window."""


class Memory:
    """given: the launch's values with a `Pointer` for every tensor. stored: the numbers of the
    memories written to.
    """

    def __init__(self, values: dict):
        self.arguments: dict[str, Argument] = {}
        self.stored: set[int] = set()
        self._storages: dict[int, tuple] = {}  # by address: its number, the caller's, its copy
        self._nowhere = np.zeros(
            16, dtype=np.uint8
        )  # where lanes point that must not touch anything
        self.given = {name: self._copied(name, value) for name, value in values.items()}
        self._windows = list(self.arguments.values())

    def write_back(self) -> None:
        """Put what was written into the caller's tensors."""
        for number, theirs, ours in self._storages.values():
            if number in self.stored:
                theirs.copy_(ours)

    def reach(
        self, address: np.ndarray, on: np.ndarray, width: int, tell
    ) -> tuple[np.ndarray, np.ndarray]:
        """Real addresses for the lanes of one access that are on, and which of these lanes may
        touch them.

        width: bytes a lane. tell(argument, elements, offsets outside, bytes an element) is called
        for each argument before that. Raises Astray.
        """
        nowhere = self._nowhere.ctypes.data
        real, allowed = (
            np.full(address.shape, nowhere, dtype=np.uint64),
            np.zeros(address.shape, dtype=bool),
        )
        window = address >> np.uint64(WINDOW)
        for number in np.unique(window[on]).tolist():
            if not 1 <= number <= len(self._windows):
                raise Astray
            lanes = on & (window == number)
            argument = self._windows[number - 1]
            byte = address[lanes].astype(np.int64) - _first(number, argument)
            parts = max(
                1, width // argument.dtype.itemsize
            )  # a pointer cast to a wider type spans several elements
            offset = (byte // argument.dtype.itemsize)[:, None] + np.arange(parts)
            element = argument.find(offset)
            inside = (element >= 0).all(1)
            tell(argument, element[inside].reshape(-1), offset[element < 0], width // parts)
            there = (byte + argument.copy.data_ptr()).astype(np.uint64)
            real[lanes], allowed[lanes] = np.where(inside, there, nowhere), inside
        return real, allowed

    def _copied(self, name, value):
        if isinstance(value, torch.Tensor):
            return self._window(name, value)
        if isinstance(value, tuple):
            parts = [self._copied(f"{name}[{i}]", part) for i, part in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if hasattr(value, "block_shape") and isinstance(getattr(value, "base", None), torch.Tensor):
            descriptor = {key: getattr(value, key) for key in value.__dataclass_fields__}
            return type(value)(**descriptor | {"base": self._window(name, value.base)})
        return value

    def _window(self, name, tensor) -> Pointer:
        """A pointer into a window of its own, behind which a copy of the tensor's storage
        stands.
        """
        if tensor.device.type == "meta":
            raise ValueError(f"{name} is a meta tensor, which holds no numbers: pass one on CPU")
        theirs = tensor.untyped_storage()
        if theirs.data_ptr() not in self._storages:
            ours = theirs.cpu() if theirs.device.type != "cpu" else theirs.clone()
            self._storages[theirs.data_ptr()] = (len(self._storages), theirs, ours)
        number, _, ours = self._storages[theirs.data_ptr()]
        copy = torch.empty(0, dtype=tensor.dtype)
        copy.set_(ours, tensor.storage_offset(), tensor.shape, tensor.stride())
        start = tensor.storage_offset() * tensor.dtype.itemsize
        argument = Argument(
            name, tuple(tensor.shape), tensor.stride(), tensor.dtype, number, start, copy
        )
        self.arguments[name] = argument
        return Pointer(tensor.dtype, _first(len(self.arguments), argument))


def _first(window: int, argument: Argument) -> int:
    """The address of an argument's first element, as well aligned as the caller's."""
    return (window << WINDOW) + (1 << (WINDOW - 1)) + argument.start % 256
