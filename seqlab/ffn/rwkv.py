import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.shift import token_shift
from seqlab.layers.base import check_layer, own


class ChannelMix(nn.Module):
    """RWKV's channel mix (Peng et al. 2023, arXiv:2305.13048).

    y_t = sigmoid(W_r x^r_t) W_v relu(W_k x^k_t)²        x^j_t = μ_j x_t + (1 - μ_j) x_{t-1}

    The difference from an MLP: each channel is first mixed with its own last value (the token
    shift), so this ffn has a state, the last input (B, D): forward(x, state) -> (y, state). The
    same in RWKV-4, -5 and -6 (which stores 1 - μ); receptance=False is RWKV-7's (arXiv:2503.14456),
    without the sigmoid.

    d_ff defaults to 4 D (-5 and -6: 3.5 D). As in the authors' code, μ of channel i starts at
    (i / D)^(1 - layer / n_layers), in RWKV-7 with the exponent's fourth power. The matrices start
    as in nn.Linear: the authors' W_v = W_r = 0 would make every output of a new layer 0.
    """

    has_state = True

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        receptance: bool = True,
        layer: int = 0,
        n_layers: int = 1,
    ):
        super().__init__()
        check_layer(layer, n_layers)
        d_ff = d_ff or 4 * d_model
        ramp = torch.arange(d_model) / d_model
        left = 1 - layer / n_layers
        self.mu_k = nn.Parameter(ramp ** (left if receptance else left**4))
        self.k = nn.Linear(d_model, d_ff, bias=False)
        self.v = nn.Linear(d_ff, d_model, bias=False)
        self.mu_r = nn.Parameter(ramp**left) if receptance else None
        self.r = nn.Linear(d_model, d_model, bias=False) if receptance else None

    def forward(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B D"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
        before = token_shift(x, state)
        x_k = torch.lerp(before, x, self.mu_k.to(x.dtype))
        y = self.v(F.relu(self.k(x_k)).square())
        if self.r is not None and self.mu_r is not None:
            x_r = torch.lerp(before, x, self.mu_r.to(x.dtype))
            y = self.r(x_r).sigmoid() * y
        return y, own(x[:, -1])
