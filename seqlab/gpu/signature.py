"""What a launch tells Triton's compiler about its arguments: types, constants, divisibility."""

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch

from seqlab.gpu.triton_private import Parameter

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
    torch.float8_e4m3fnuz: "fp8e4b8",
    torch.float8_e5m2fnuz: "fp8e5b16",
    torch.bool: "i1",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}


class Specialised(NamedTuple):
    """What a launch tells the compiler about its arguments, in Triton's own terms."""

    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int], list]


def specialise(kernel: str, parameters: list[Parameter], given: dict[str, Any]) -> Specialised:
    """Types, constants, and which values are divisible by 16, as a launch would see them."""
    found = Specialised({}, {}, {})
    for i, parameter in enumerate(parameters):
        value = given.get(parameter.name, parameter.default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"{kernel} needs {parameter.name}: pass it as in a launch")
        value = value.item() if isinstance(value, np.generic) else value
        is_one = parameter.specialised and type(value) is int and value == 1
        if parameter.constant or value is None or is_one:
            found.signature[parameter.name] = "constexpr"
            found.constants[parameter.name] = value
            continue
        found.signature[parameter.name], aligned = _type(value)
        if aligned and parameter.specialised:
            found.attributes[(i,)] = [["tt.divisibility", 16]]
    return found


def _type(value: Any) -> tuple[str, bool]:
    """Triton's name for the type of an argument, and whether its value is divisible by 16."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            address = int(value.storage_offset()) * value.element_size()
        else:
            address = value.data_ptr()
        return "*" + TYPES[value.dtype], address % 16 == 0
    if isinstance(value, str):
        return value, value.startswith("*")
    if isinstance(value, bool):
        return "i1", False
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
    if hasattr(value, "block_shape"):
        block = ",".join(map(str, value.block_shape))
        return f"tensordesc<{TYPES[value.base.dtype]}[{block}]>", False
    return "fp32", False
