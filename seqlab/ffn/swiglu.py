from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """W_down(silu(W_gate x) · W_up x) (Shazeer 2020, arXiv:2002.05202).

    The difference from an MLP: a second map of x, times the activation of the first. No biases;
    d_ff defaults to 8/3 D. activation=F.gelu gives GeGLU, torch.sigmoid the original GLU.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        bias: bool = False,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ):
        super().__init__()
        d_ff = d_ff or 8 * d_model // 3
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.down(self.activation(self.gate(x)) * self.up(x))
