"""The short causal convolution in front of a recurrence."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.convolution import causal_conv


class ShortConv(nn.Module):
    """A causal convolution of a few taps per channel, then an activation: lets a key know its
    neighbours.

    `weight` (D, W) is `nn.Conv1d(D, D, W, groups=D).weight[:, 0]`. forward(x, state) -> (y, state),
    state the last W - 1 inputs (B, W - 1, D). activation: any function, or None. form:
    `causal_conv`, or any function with its signature (a kernel).
    """

    def __init__(
        self,
        d_model: int,
        d_conv: int = 4,
        *,
        bias: bool = False,
        activation=F.silu,
        form=causal_conv,
    ):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(d_model, d_conv).uniform_(-(d_conv**-0.5), d_conv**-0.5)
        )
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.activation, self.form = activation, form

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.form(x, self.weight, self.bias, state)
        return (y if self.activation is None else self.activation(y)), state
