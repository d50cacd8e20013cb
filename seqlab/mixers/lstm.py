from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import full_precision
from seqlab.layers.base import Mixer, check_shape


class LSTMState(NamedTuple):
    h: Float[Tensor, "B D"]
    c: Float[Tensor, "B D"]


class LSTM(Mixer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735).

    c_t = f_t c_{t-1} + i_t g_t        h_t = o_t tanh(c_t)        y_t = h_t
    (i, f, o) = σ, g = tanh, each of its own W x_t + R h_{t-1} + b

    The difference from Elman's network: beside h there is a cell c that no matrix touches; it is
    only scaled and added to, so what is written can stay for as long as f is near 1. The 1997 paper
    has no f (f = 1: never forget); the forget gate is from Gers et al. 2000
    (doi:10.1162/089976600300015015) and belongs to every LSTM since.

    The rows of W, R and b are i, f, g, o, as in PyTorch. form: "fused" (PyTorch's own loop, on
    these parameters) or "recurrent" (the equation). State: h and c, each (B, D).
    """

    FORMS = ("fused", "recurrent")

    def __init__(self, d_model, *, form="fused"):
        super().__init__(d_model, form)
        self.W, self.R = (
            nn.Linear(d_model, 4 * d_model),
            nn.Linear(d_model, 4 * d_model, bias=False),
        )
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_model**-0.5), d_model**-0.5)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], LSTMState]:
        wide = torch.promote_types(x.dtype, torch.float32)
        h, c = (
            [x.new_zeros(len(x), self.d_model, dtype=wide)] * 2
            if state is None
            else (u.to(wide) for u in state)
        )
        for name, u in (("h", h), ("c", c)):
            check_shape(f"the state's {name}", u, (len(x), self.d_model))
        W, R, b = (parameter.to(wide) for parameter in (self.W.weight, self.R.weight, self.W.bias))
        run = self.fused if self.form == "fused" else self.recurrent
        y, h, c = run(x.to(wide), h, c, W, R, b)
        return y.to(x.dtype), LSTMState(h, c)

    @staticmethod
    @full_precision
    def recurrent(x, h, c, W, R, b):
        """The equation, token by token."""
        ys = []
        for Wx in (x @ W.mT + b).unbind(1):
            i, f, g, o = (Wx + h @ R.mT).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            ys.append(h)
        return torch.stack(ys, dim=1), h, c

    @staticmethod
    @full_precision
    def fused(x, h, c, W, R, b):
        """The same in one call; PyTorch has a second bias beside R, here 0."""
        parameters = [W, R, b, torch.zeros_like(b)]
        y, h, c = torch.lstm(x, (h[None], c[None]), parameters, True, 1, 0.0, False, False, True)
        return y, h[0], c[0]
