"""Sequence mixers, one architecture a file: forward(x, state) -> (y, state)."""

from seqlab.mixers.attention import Attention
from seqlab.mixers.linear_attention import LinearAttention
from seqlab.mixers.retnet import RetNet

__all__ = ["Attention", "LinearAttention", "RetNet"]
