import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import full_precision, wide
from seqlab.layers.base import Mixer, check_shape


class Elman(Mixer):
    """The simple recurrent network (Elman 1990, doi:10.1207/s15516709cog1402_1).

    h_t = tanh(W x_t + R h_{t-1} + b)        y_t = h_t

    The difference from everything linear: h passes through a matrix *and* a nonlinearity at each
    step. So step t has to wait for step t-1, and no form computes all t at once. W x_t does not
    depend on h and is computed for all t first.

    Three things are as in PyTorch and not as in 1990. Elman's context units held a copy of h and no
    gradient passed through the copy; here it flows through all of time. The nonlinearity is tanh
    and h starts at 0; as far as we know, his units were logistic and the context started at 0.5.
    All weights start uniform in ±D^-1/2.

    form: "fused" (PyTorch's own loop, on these parameters) or "recurrent" (the equation).
    State: h (B, D).
    """

    FORMS = ("fused", "recurrent")

    def __init__(self, d_model: int, *, form: str = "fused"):
        super().__init__(d_model, form)
        self.W = nn.Linear(d_model, d_model)
        self.R = nn.Linear(d_model, d_model, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_model**-0.5), d_model**-0.5)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        exact = wide(x)
        h = exact.new_zeros(len(x), self.d_model) if state is None else state.to(exact.dtype)
        check_shape("the state", h, (len(x), self.d_model))
        W, R, b = (p.to(exact.dtype) for p in (self.W.weight, self.R.weight, self.W.bias))
        run = self.fused if self.form == "fused" else self.recurrent
        y, h = run(exact, h, W, R, b)
        return y.to(x.dtype), h

    @staticmethod
    @full_precision
    def recurrent(x, h, W, R, b):
        """The equation, token by token."""
        ys = []
        for Wx in (x @ W.mT + b).unbind(1):
            h = torch.tanh(Wx + h @ R.mT)
            ys.append(h)
        return torch.stack(ys, dim=1), h

    @staticmethod
    @full_precision
    def fused(x, h, W, R, b):
        """The same in one call; PyTorch has a second bias beside R, here 0."""
        weights = [W, R, b, torch.zeros_like(b)]
        y, h = torch.rnn_tanh(x, h[None], weights, True, 1, 0.0, False, False, True)
        return y, h[0]
