"""Copies of a launch's tensors, each in a window of addresses of its own.

The addresses are made up, so each address that a kernel forms says which tensor it belongs to. An
access outside that tensor is known before any memory is touched, and the caller's tensors keep
their values until `write_back`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from seqlab.gpu.affine import Mask, Shadow
from seqlab.gpu.events import Argument, Line, Path

WINDOW = 44
"""Bits of address in a tensor's window: 8 TiB on either side of its first element."""


class Pointer:
    """Replaces a tensor when Triton asks for its address and type."""

    def __init__(self, dtype: torch.dtype, address: int):
        self.dtype, self.address = dtype, address

    def data_ptr(self) -> int:
        return self.address


class Touch(NamedTuple):
    """The part of an access that belongs to one tensor."""

    argument: Argument
    elements: np.ndarray
    lanes: np.ndarray
    outside: np.ndarray
    width: int
    masked: Callable[[], np.ndarray]


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

    def follow(self, values: dict) -> None:
        """Take over the block shapes that a hook gave to the caller's tensor descriptors."""
        for name, value in values.items():
            if hasattr(value, "block_shape"):
                self.given[name].block_shape = value.block_shape

    def write_back(self) -> None:
        """Copy what was written into the caller's tensors."""
        for number, theirs, ours in self._storages.values():
            if number in self.stored:
                theirs.copy_(ours)

    def reach(
        self, address: np.ndarray, on: np.ndarray, width: int, tell: Callable[[Touch], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Real addresses for the lanes of one access, and which of those lanes may touch them.

        on: the lanes that the kernel's mask lets through. width: bytes a lane. For each tensor
        touched, tell(touch) is called first. Raises Astray if an address belongs to no tensor.
        """
        nowhere = self._nowhere.ctypes.data
        real = np.full(address.size, nowhere, dtype=np.uint64)
        allowed = np.zeros(address.size, dtype=bool)
        flat = address.reshape(-1)
        window = (flat >> np.uint64(WINDOW)).astype(np.int64)
        lanes = np.flatnonzero(on)
        for number in _distinct(window[lanes]):
            if not 1 <= number <= len(self._windows):
                raise Astray
            mine = lanes if len(self._windows) == 1 else lanes[window[lanes] == number]
            argument = self._windows[number - 1]
            byte = flat[mine].astype(np.int64) - _first(number, argument)
            touch, inside = _touch(argument, byte, mine, width)
            tell(touch._replace(masked=self._masked(argument, number, flat, on)))
            real[mine[inside]] = (byte[inside] + argument.copy.data_ptr()).astype(np.uint64)
            allowed[mine[inside]] = True
        return real.reshape(address.shape), allowed.reshape(address.shape)

    def path(
        self, kind: str, address: np.ndarray, width: int, shadow: Shadow, mask: Mask, line: Line
    ) -> Path:
        """address: of each lane, in the program that runs."""
        numbers = np.unique(address >> WINDOW)
        argument, offset = None, address
        if len(numbers) == 1 and 1 <= numbers[0] <= len(self._windows):
            argument = self._windows[int(numbers[0]) - 1]
            offset = address - _first(int(numbers[0]), argument)
        return Path(kind, argument, offset, shadow, mask, False, line, width)

    def _masked(
        self, argument: Argument, number: int, address: np.ndarray, on: np.ndarray
    ) -> Callable[[], np.ndarray]:
        """Finds the elements that the lanes would touch that are switched off."""

        def found() -> np.ndarray:
            off = address[~on.reshape(-1)].astype(np.int64) - _first(number, argument)
            element = argument.find(off // argument.dtype.itemsize)
            return element[element >= 0]

        return found

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


def _distinct(numbers: np.ndarray) -> list[int]:
    if not len(numbers):
        return []
    first = int(numbers[0])
    return [first] if (numbers == first).all() else np.unique(numbers).tolist()


def _touch(
    argument: Argument, byte: np.ndarray, lanes: np.ndarray, width: int
) -> tuple[Touch, np.ndarray]:
    """byte: of each lane, counted from the first element. Also: which of the lanes are inside."""
    size = argument.dtype.itemsize
    parts = max(1, width // size)  # a pointer cast to a wider type spans several elements
    offset = (byte // size)[:, None] + np.arange(parts) if parts > 1 else (byte // size)[:, None]
    element = argument.find(offset)
    outside = element < 0
    inside = np.asarray(~outside.any(1))
    if inside.all():
        elements, owners = element.reshape(-1), lanes
    else:
        elements, owners = element[inside].reshape(-1), lanes[inside]
    owners = owners if parts == 1 else np.repeat(owners, parts)
    touch = Touch(argument, elements, owners, offset[outside], width // parts, lambda: elements[:0])
    return touch, inside
