"""Triton kernels, imported as `seqlab.kernels`. Each has the signature of its reference in `seqlab` or PyTorch.

They run on the GPU where their tensors are, and in Triton's interpreter, slowly, for tensors on CPU. See `launch.py`.
"""

from importlib.util import find_spec

if find_spec("triton") is None:
    raise ImportError(
        "seqlab.kernels needs Triton, which is installed on Linux only: use the references in seqlab "
        "(the same signatures), or run this chapter on Linux, in the dev container or on Binder"
    )

from seqlab.kernels.flash_attention import flash_attention
from seqlab.kernels.flash_decode import flash_decode
from seqlab.kernels.matmul import matmul
from seqlab.kernels.rmsnorm import rms_norm
from seqlab.kernels.softmax import softmax

__all__ = ["flash_attention", "flash_decode", "matmul", "rms_norm", "softmax"]
