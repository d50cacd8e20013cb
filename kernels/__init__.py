"""Triton kernels, imported as `seqlab.kernels`. Each has the signature of its reference in `seqlab`.

None is here yet: they come with the chapters that write them (23 to 28). The references run everywhere.
"""

from importlib.util import find_spec

if find_spec("triton") is None:
    raise ImportError(
        "seqlab.kernels needs Triton, which is installed on Linux only: use the references in seqlab "
        "(the same signatures), or run this chapter on Linux, in the dev container or on Binder"
    )
