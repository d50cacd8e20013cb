"""Channel mixers: what a block does to each token on its own."""

from seqlab.ffn.mlp import MLP
from seqlab.ffn.swiglu import SwiGLU

__all__ = ["MLP", "SwiGLU"]
