"""A map through a few channels."""

from torch import nn


def low_rank(d_in: int, rank: int, d_out: int, bias: bool = False) -> nn.Sequential:
    """The map W U: two thin matrices in place of one large one. bias: after the second."""
    return nn.Sequential(nn.Linear(d_in, rank, bias=False), nn.Linear(rank, d_out, bias=bias))
