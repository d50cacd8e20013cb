"""Convolutions over time: the short causal one in front of a recurrence, and long ones through the FFT."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def causal_conv(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    state: Float[Tensor, "B past D"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B past D"]]:
    """y_t = Σ_{j<W} w_j x_{t-W+1+j} + bias, each channel on its own; x before the first token is 0.

    weight[:, -1] meets the newest token, as in `nn.Conv1d`. The state is the last W - 1 inputs. Returns (y, state).
    """
    D, W = weight.shape
    past = x.new_zeros(x.shape[0], W - 1, D) if state is None else state
    x = torch.cat([past, x], dim=1)
    y = F.conv1d(rearrange(x, "b t d -> b d t"), rearrange(weight, "d w -> d 1 w"), bias, groups=D)
    return rearrange(y, "b d t -> b t d"), x[:, x.shape[1] - (W - 1) :]


class ShortConv(nn.Module):
    """A causal convolution of a few taps per channel, then an activation: lets a key know its neighbours.

    `weight` (D, W) is `nn.Conv1d(D, D, W, groups=D).weight[:, 0]`. forward(x, state) -> (y, state), state the last
    W - 1 inputs (B, W - 1, D). activation: any function, or None.
    """

    def __init__(self, d_model: int, d_conv: int = 4, *, bias: bool = False, activation=F.silu):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, d_conv).uniform_(-(d_conv**-0.5), d_conv**-0.5))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.activation = activation

    def forward(self, x: Float[Tensor, "B T D"], state=None) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = causal_conv(x, self.weight, self.bias, state)
        return (y if self.activation is None else self.activation(y)), state
