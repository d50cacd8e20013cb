"""Copies of a launch's tensors, each in a window of addresses of its own.

The addresses are made up, so each address that a kernel forms says which tensor it belongs to. An
access outside that tensor is known before any memory is touched, and the caller's tensors keep
their values until `write_back`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from seqlab.gpu.events import Argument

WINDOW = 44
"""Bits of address in a tensor's window: 8 TiB on either side of its first element."""


class Pointer:
    """Replaces a tensor when Triton asks for its address and type."""

    def __init__(self, dtype: torch.dtype, address: int):
        self.dtype, self.address = dtype, address

    def data_ptr(self) -> int:
        return self.address


class Astray(Exception):
    """An address outside every tensor's window."""


class Storage(NamedTuple):
    """One storage of the caller's, shared by all tensors that view it, and its copy."""

    number: int
    theirs: torch.UntypedStorage
    ours: torch.UntypedStorage


class Memory:
    """given: the launch's values, a `Pointer` for each tensor. stored: storages written to."""

    def __init__(self, values: dict):
        self.arguments: dict[str, Argument] = {}
        self.stored: set[int] = set()
        self._storages: dict[int, Storage] = {}  # by address
        self._nowhere = np.zeros(16, dtype=np.uint8)  # lanes that may touch nothing point here
        self.given = {name: self._copied(name, value) for name, value in values.items()}
        self._windows = list(self.arguments.values())

    def write_back(self) -> None:
        """Copy what was written into the caller's tensors."""
        for number, theirs, ours in self._storages.values():
            if number in self.stored:
                theirs.copy_(ours)

    def reach(
        self, address: np.ndarray, on: np.ndarray, width: int, tell: Callable[..., None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Real addresses for the lanes of one access, and which of those lanes may touch them.

        on: the lanes that the kernel's mask lets through. width: bytes a lane. For each tensor
        touched, tell(argument, elements, offsets outside, bytes an element) is called first. Raises
        Astray if an address belongs to no tensor.
        """
        nowhere = self._nowhere.ctypes.data
        real = np.full(address.shape, nowhere, dtype=np.uint64)
        allowed = np.zeros(address.shape, dtype=bool)
        window = address >> np.uint64(WINDOW)
        for number in np.unique(window[on]).tolist():
            if not 1 <= number <= len(self._windows):
                raise Astray
            lanes = on & (window == number)
            argument = self._windows[number - 1]
            size = argument.dtype.itemsize
            byte = address[lanes].astype(np.int64) - _first(number, argument)
            parts = max(1, width // size)  # a pointer cast to a wider type spans several elements
            offset = (byte // size)[:, None] + np.arange(parts)
            element = argument.find(offset)
            inside = (element >= 0).all(1)
            tell(argument, element[inside].reshape(-1), offset[element < 0], width // parts)
            there = (byte + argument.copy.data_ptr()).astype(np.uint64)
            real[lanes] = np.where(inside, there, nowhere)
            allowed[lanes] = inside
        return real, allowed

    def _copied(self, name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._window(name, value)
        if isinstance(value, tuple):
            parts = [self._copied(f"{name}[{i}]", part) for i, part in enumerate(value)]
            make: Any = type(value)  # a named tuple takes its parts one by one
            return make(*parts) if hasattr(value, "_fields") else tuple(parts)
        if hasattr(value, "block_shape") and isinstance(getattr(value, "base", None), torch.Tensor):
            descriptor = {key: getattr(value, key) for key in value.__dataclass_fields__}
            return type(value)(**descriptor | {"base": self._window(name, value.base)})
        return value

    def _window(self, name: str, tensor: torch.Tensor) -> Pointer:
        """A pointer into a new window, which maps to a copy of the tensor's storage."""
        if tensor.device.type == "meta":
            raise ValueError(f"{name} is a meta tensor, which holds no numbers: pass one on CPU")
        theirs = tensor.untyped_storage()
        if theirs.data_ptr() not in self._storages:
            ours = theirs.cpu() if theirs.device.type != "cpu" else theirs.clone()
            self._storages[theirs.data_ptr()] = Storage(len(self._storages), theirs, ours)
        storage = self._storages[theirs.data_ptr()]
        copy = torch.empty(0, dtype=tensor.dtype)
        copy.set_(storage.ours, tensor.storage_offset(), tensor.shape, tensor.stride())
        argument = Argument(
            name=name,
            shape=tuple(tensor.shape),
            stride=tensor.stride(),
            dtype=tensor.dtype,
            memory=storage.number,
            start=int(tensor.storage_offset()) * tensor.dtype.itemsize,
            copy=copy,
        )
        self.arguments[name] = argument
        return Pointer(tensor.dtype, _first(len(self.arguments), argument))


def _first(window: int, argument: Argument) -> int:
    """The address of a tensor's first element, aligned as the caller's is."""
    return (window << WINDOW) + (1 << (WINDOW - 1)) + argument.start % 256
