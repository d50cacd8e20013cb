"""The short causal convolution before a recurrence."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.convolution import causal_conv


class ShortConv(nn.Module):
    """A causal convolution of a few taps per channel, then an activation.

    It lets a key depend on its neighbours. `weight` (D, W) is
    `nn.Conv1d(D, D, W, groups=D).weight[:, 0]`, uniform in ±W^-1/2 at the start, as there; a bias
    starts at 0. forward(x, state) -> (y, state), the state being the last W - 1 inputs
    (B, W - 1, D). activation: any function, or None. form: `causal_conv`, or any function with its
    signature (a kernel).
    """

    def __init__(
        self,
        d_model: int,
        d_conv: int = 4,
        *,
        bias: bool = False,
        activation: Callable[[Tensor], Tensor] | None = F.silu,
        form: Callable = causal_conv,
    ):
        super().__init__()
        bound = d_conv**-0.5
        self.weight = nn.Parameter(torch.empty(d_model, d_conv).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.activation = activation
        self.form = form

    def forward(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B past D"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B past D"]]:
        y, past = self.form(x, self.weight, self.bias, state)
        return (y if self.activation is None else self.activation(y)), past
