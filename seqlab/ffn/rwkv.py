import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.shift import token_shift


class ChannelMix(nn.Module):
    """RWKV's channel mix (Peng et al. 2023, arXiv:2305.13048): y_t = sigmoid(W_r x^r_t) W_v
    relu(W_k x^k_t)².

    The difference from an MLP: each channel is first mixed with its own last value, x^j_t = μ_j x_t
    + (1 - μ_j) x_{t-1} (the token shift), so this ffn has a state, the last input (B, D):
    forward(x, state) -> (y, state). The same in RWKV-4, -5 and -6 (which stores 1 - μ);
    receptance=False is RWKV-7's (arXiv:2503.14456), without the sigmoid.

    d_ff defaults to 4 D (-5 and -6: 3.5 D). μ starts as in the authors' code, from `layer` of
    `n_layers`; the matrices as nn.Linear does: the authors' W_v = W_r = 0 would make every output
    of a new layer 0.
    """

    has_state = True

    def __init__(
        self, d_model: int, d_ff: int | None = None, *, receptance: bool = True, layer=0, n_layers=1
    ):
        super().__init__()
        d_ff, left = d_ff or 4 * d_model, 1 - layer / n_layers
        ramp = torch.arange(d_model) / d_model
        self.mu_k = nn.Parameter(ramp ** (left if receptance else left**4))
        self.k, self.v = nn.Linear(d_model, d_ff, bias=False), nn.Linear(d_ff, d_model, bias=False)
        self.mu_r = nn.Parameter(ramp**left) if receptance else None
        self.r = nn.Linear(d_model, d_model, bias=False) if receptance else None

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
        before = token_shift(x, state)
        y = self.v(F.relu(self.k(torch.lerp(before, x, self.mu_k))).square())
        if self.r is not None:
            y = self.r(torch.lerp(before, x, self.mu_r)).sigmoid() * y
        return y, x[:, -1]
