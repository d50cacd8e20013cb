"""Triton kernels. Each has the signature of its reference in `seqlab` or PyTorch.

They are imported as `seqlab.kernels`: `package-dir` in pyproject.toml installs this folder under
that name. They run on the GPU that holds their tensors, and for tensors on CPU in Triton's
interpreter, slowly. See `launch.py`.
"""

from importlib.util import find_spec

if find_spec("triton") is None:
    raise ImportError(
        "seqlab.kernels needs Triton, which is installed on Linux only: use the references in "
        "seqlab (the same signatures), or run this chapter on Linux, in the dev container or on "
        "Binder"
    )

from seqlab.kernels.causal_conv1d import causal_conv1d
from seqlab.kernels.chunk_delta import chunk_delta
from seqlab.kernels.chunk_recurrence import chunk_recurrence
from seqlab.kernels.flash_attention import flash_attention
from seqlab.kernels.flash_decode import flash_decode
from seqlab.kernels.grouped_matmul import grouped_matmul
from seqlab.kernels.linear_scan import linear_scan
from seqlab.kernels.matmul import matmul
from seqlab.kernels.moe import mix, mix_stacked
from seqlab.kernels.moe_combine import combine
from seqlab.kernels.moe_gate import top_k_gate
from seqlab.kernels.moe_permute import permute
from seqlab.kernels.rmsnorm import rms_norm
from seqlab.kernels.selective_scan import selective_scan
from seqlab.kernels.softmax import softmax

__all__ = [
    "causal_conv1d",
    "chunk_delta",
    "chunk_recurrence",
    "combine",
    "flash_attention",
    "flash_decode",
    "grouped_matmul",
    "linear_scan",
    "matmul",
    "mix",
    "mix_stacked",
    "permute",
    "rms_norm",
    "selective_scan",
    "softmax",
    "top_k_gate",
]
