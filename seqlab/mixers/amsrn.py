from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import full_precision
from seqlab.layers.base import Mixer, check_shape


class AMSRNState(NamedTuple):
    h: Float[Tensor, "B D"]
    c: Float[Tensor, "B D"]
    past: Float[Tensor, "B S D"]


class AMSRN(Mixer):
    """Attention-based memory selection recurrent network (Liu et al. 2016, arXiv:1611.08656).

    h_t = LSTM(x_t, h_{t-1})          a, b = σ(selections of h_t), k = K h_t
    p_i = softmax_i Σ_d a_d h_{i,d} k_d over all i < t
    y_t = O [h_t, Σ_i p_i b h_i]

    The difference from the LSTM: each of its past outputs stays, and h_t chooses among them. a says
    which channels are compared and b which are read, so one state can be found by one part of it
    and answer with another.

    The paper tries several ways to make the two selections; here each is σ of a linear map of h_t,
    and the scores are plain dot products. The first token has no past and reads 0.
    State: the LSTM's h and c (B, D), and all outputs so far (B, T, D): it grows.
    """

    def __init__(self, d_model: int):
        super().__init__(d_model)
        self.W = nn.Linear(d_model, 4 * d_model)
        self.R = nn.Linear(d_model, 4 * d_model, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_model**-0.5), d_model**-0.5)
        self.select = nn.Linear(d_model, 2 * d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(2 * d_model, d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], state: AMSRNState | None = None
    ) -> tuple[Float[Tensor, "B T D"], AMSRNState]:
        y, state, _ = self.run(x, state)
        return y, state

    @full_precision
    def run(self, x, state=None):
        """forward, and beside it the weights of token t on each output before it (B, T, S + T)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        h, c, past = self.start(x, dtype) if state is None else (u.to(dtype) for u in state)
        for name, u in (("h", h), ("c", c)):
            check_shape(f"the state's {name}", u, (len(x), self.d_model))
        check_shape("the state's past", past, (len(x), past.shape[1], self.d_model))
        W, R, b = (p.to(dtype) for p in (self.W.weight, self.R.weight, self.W.bias))
        weights = [W, R, b, torch.zeros_like(b)]
        start = h[None], c[None]
        hs, h, c = torch.lstm(x.to(dtype), start, weights, True, 1, 0.0, False, False, True)
        past = torch.cat([past, hs], dim=1)
        compared, read = self.of(self.select, hs).sigmoid().chunk(2, dim=-1)
        scores = (compared * (hs @ self.key.weight.to(dtype).mT)) @ past.mT  # (B, T, S + T)
        earlier = torch.ones_like(scores, dtype=torch.bool).tril(past.shape[1] - hs.shape[1] - 1)
        p = scores.masked_fill(~earlier, torch.finfo(dtype).min).softmax(-1) * earlier
        y = self.of(self.out, torch.cat([hs, read * (p @ past)], dim=-1))
        return y.to(x.dtype), AMSRNState(h[0], c[0], past), p

    def start(self, x, dtype):
        """The state before the first token."""
        zero = x.new_zeros(len(x), self.d_model, dtype=dtype)
        return zero, zero, x.new_zeros(len(x), 0, self.d_model, dtype=dtype)

    @staticmethod
    def of(layer, x):
        """layer(x), in the dtype of x."""
        return x @ layer.weight.to(x.dtype).mT + layer.bias.to(x.dtype)
