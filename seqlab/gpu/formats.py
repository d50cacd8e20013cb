"""Number formats that numpy lacks, as bits: bfloat16, and the four kinds of fp8.

They are widened to float32 to compute, and rounded to the nearest number, ties to even. A number
too large for fp8 becomes the largest finite one, as in a GPU's own conversion (PTX: satfinite).
"""

import numpy as np
import torch

FP8 = {
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
    "fp8e4b8": torch.float8_e4m3fnuz,
    "fp8e5b16": torch.float8_e5m2fnuz,
}
"""Triton's names for the kinds of fp8, and torch's."""

NARROW = {"bf16", *FP8}


def widened(bits: np.ndarray, kind: str) -> np.ndarray:
    """The float32 numbers that bits of a narrow kind stand for."""
    if kind == "bf16":
        return from_bf16(bits)
    flat = torch.from_numpy(np.array(bits, dtype=np.uint8, order="C").reshape(-1))
    return flat.view(FP8[kind]).float().numpy().reshape(np.shape(bits))


def narrowed(x: np.ndarray, kind: str, to_zero: bool = False) -> np.ndarray:
    """The bits of float32 numbers in a narrow kind."""
    if kind == "bf16":
        return to_bf16(x, to_zero)
    most = torch.finfo(FP8[kind]).max
    flat = np.clip(np.array(x, dtype=np.float32, order="C").reshape(-1), -most, most)
    bits = torch.from_numpy(flat).to(FP8[kind]).view(torch.uint8)
    return bits.numpy().reshape(np.shape(x))


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(x: np.ndarray, to_zero: bool = False) -> np.ndarray:
    """The bits of float32 numbers rounded to the nearest bfloat16, ties to even."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits if to_zero else bits + (0x7FFF + (bits >> 16 & 1))
    return np.where(np.isnan(x), 0x7FC0, rounded >> 16).astype(np.uint16)
