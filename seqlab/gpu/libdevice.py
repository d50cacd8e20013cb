"""Functions of CUDA's libdevice and AMD's ocml on numpy arrays, by their names without prefix.

A kernel that calls one that is not here does not run on CPU.
"""

import re
from collections.abc import Callable

import numpy as np
import torch


def function(symbol: str) -> Callable | None:
    """What computes `__nv_tanhf` or `__ocml_tanh_f32`, or None."""
    name = name_of(symbol)
    return FUNCTIONS.get(name)


def name_of(symbol: str) -> str:
    """`tanh`, for `__nv_tanh`, `__nv_tanhf` and `__ocml_tanh_f32`."""
    name = re.sub(r"^__(nv|ocml)_", "", symbol)
    name = re.sub(r"_f(16|32|64)$", "", name)
    return name if name in FUNCTIONS else name.removesuffix("f")


def _by_torch(compute: Callable) -> Callable:
    def computed(*arrays):
        return compute(*(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays)).numpy()

    return computed


def _half_away(x):
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


FUNCTIONS: dict[str, Callable] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "copysign": np.copysign,
    "cos": np.cos,
    "cosh": np.cosh,
    "cospi": lambda x: np.cos(np.pi * x),
    "cyl_bessel_i0": _by_torch(torch.special.i0),
    "cyl_bessel_i1": _by_torch(torch.special.i1),
    "erf": _by_torch(torch.special.erf),
    "erfc": _by_torch(torch.special.erfc),
    "erfinv": _by_torch(torch.special.erfinv),
    "exp": np.exp,
    "exp10": lambda x: np.power(x.dtype.type(10), x),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fabs": np.abs,
    "fast_cosf": np.cos,
    "fast_exp10f": lambda x: np.power(x.dtype.type(10), x),
    "fast_expf": np.exp,
    "fast_fdividef": np.divide,
    "fast_log10f": np.log10,
    "fast_log2f": np.log2,
    "fast_logf": np.log,
    "fast_powf": np.power,
    "fast_sinf": np.sin,
    "fast_tanf": np.tan,
    "fdim": lambda x, y: np.maximum(x - y, 0),
    "finite": np.isfinite,
    "floor": np.floor,
    "fma": lambda x, y, z: (x.astype(np.float64) * y + z).astype(x.dtype),
    "fmax": np.fmax,
    "fmin": np.fmin,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "isfinited": np.isfinite,
    "isinf": np.isinf,
    "isinfd": np.isinf,
    "isnan": np.isnan,
    "isnand": np.isnan,
    "ldexp": np.ldexp,
    "lgamma": _by_torch(torch.special.gammaln),
    "llabs": np.abs,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "nearbyint": np.rint,
    "nextafter": np.nextafter,
    "normcdf": _by_torch(torch.special.ndtr),
    "normcdfinv": _by_torch(torch.special.ndtri),
    "pow": np.power,
    "powi": np.power,
    "rcbrt": lambda x: 1 / np.cbrt(x),
    "rhypot": lambda x, y: 1 / np.hypot(x, y),
    "rint": np.rint,
    "round": _half_away,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "saturate": lambda x: np.clip(x, 0, 1),
    "scalbn": np.ldexp,
    "signbit": np.signbit,
    "signbitd": np.signbit,
    "sin": np.sin,
    "sinh": np.sinh,
    "sinpi": lambda x: np.sin(np.pi * x),
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
}
"""`fast_…` are as exact here as the others: on a GPU they are not."""
