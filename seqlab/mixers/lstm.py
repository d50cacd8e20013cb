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
    i, f and o are σ, g is tanh, each of its own W x_t + R h_{t-1} + b

    The difference from Elman's network: beside h there is a cell c that no matrix multiplies. It is
    only scaled and added to, so what is written stays for as long as f is near 1. The paper of 1997
    has no f (f = 1: never forget). The forget gate is that of Gers, Schmidhuber & Cummins 2000
    (doi:10.1162/089976600300015015) and is part of every LSTM since.

    The rows of W, R and b are i, f, g, o, as in PyTorch, and all start uniform within ±D^-1/2, as
    there. form: "fused" (PyTorch's own loop, on these parameters) or "recurrent" (the equation).
    State: h and c, each (B, D).
    """

    FORMS = ("fused", "recurrent")

    def __init__(self, d_model: int, *, form: str = "fused"):
        super().__init__(d_model, form)
        self.W = nn.Linear(d_model, 4 * d_model)
        self.R = nn.Linear(d_model, 4 * d_model, bias=False)
        bound = d_model**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, x: Float[Tensor, "B T D"], state: LSTMState | None = None
    ) -> tuple[Float[Tensor, "B T D"], LSTMState]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        if state is None:
            h = c = x.new_zeros(len(x), self.d_model, dtype=dtype)
        else:
            h, c = (u.to(dtype) for u in state)
        for name, u in (("h", h), ("c", c)):
            check_shape(f"the state's {name}", u, (len(x), self.d_model))
        W, R, b = (p.to(dtype) for p in (self.W.weight, self.R.weight, self.W.bias))
        run = self.fused if self.form == "fused" else self.recurrent
        y, h, c = run(x.to(dtype), h, c, W, R, b)
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
        """The same in one call. PyTorch has a second bias, beside R: it is 0 here."""
        parameters = [W, R, b, torch.zeros_like(b)]
        y, h, c = torch.lstm(x, (h[None], c[None]), parameters, True, 1, 0.0, False, False, True)
        return y, h[0], c[0]
