import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import full_precision, wide
from seqlab.layers.base import Mixer, check_shape


class GRU(Mixer):
    """The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

    h_t = z_t h_{t-1} + (1 - z_t) n_t        y_t = h_t
    (r, z) = σ(W x_t + R h_{t-1} + b)        n = tanh(W x_t + b + r_t (R h_{t-1} + b'))

    The difference from the LSTM: there is no separate cell. One gate z both keeps and writes, so
    the shares of old and new always add up to 1.

    reset: where r acts. "after" the product with R, as in PyTorch and cuDNN and by default here, or
    "before" it, the paper's own n = tanh(W x + b + R (r h) + b'). Only "after" has a fused form.
    The rows of W, R and the biases are r, z, n, as in PyTorch; all start uniform in ±D^-1/2.
    form: "fused" (PyTorch's own loop, on these parameters) or "recurrent" (the equation).
    State: h (B, D).
    """

    FORMS = ("fused", "recurrent")

    def __init__(self, d_model: int, *, reset: str = "after", form: str | None = None):
        form = form or ("fused" if reset == "after" else "recurrent")
        super().__init__(d_model, form)
        if reset not in ("after", "before"):
            raise ValueError(f"reset is {reset!r}: choose 'after' or 'before' (the product with R)")
        if (reset, form) == ("before", "fused"):
            raise ValueError(
                "reset is 'before', form is 'fused': "
                "PyTorch fuses only 'after', so use form='recurrent'"
            )
        self.reset = reset
        self.W, self.R = (nn.Linear(d_model, 3 * d_model) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_model**-0.5), d_model**-0.5)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        exact = wide(x)
        h = exact.new_zeros(len(x), self.d_model) if state is None else state.to(exact.dtype)
        check_shape("the state", h, (len(x), self.d_model))
        parameters = (self.W.weight, self.R.weight, self.W.bias, self.R.bias)
        run = self.fused if self.form == "fused" else self.recurrent
        y, h = run(exact, h, *(p.to(exact.dtype) for p in parameters))
        return y.to(x.dtype), h

    @full_precision
    def recurrent(self, x, h, W, R, b, b_R):
        """The equation, token by token."""
        D = h.shape[-1]
        R_rz, R_n = R[: 2 * D], R[2 * D :]
        b_rz, b_n = b_R[: 2 * D], b_R[2 * D :]
        ys = []
        for Wx in (x @ W.mT + b).unbind(1):
            r, z = (Wx[:, : 2 * D] + h @ R_rz.mT + b_rz).sigmoid().chunk(2, dim=-1)
            past = r * (h @ R_n.mT + b_n) if self.reset == "after" else (r * h) @ R_n.mT + b_n
            h = z * h + (1 - z) * (Wx[:, 2 * D :] + past).tanh()
            ys.append(h)
        return torch.stack(ys, dim=1), h

    @staticmethod
    @full_precision
    def fused(x, h, W, R, b, b_R):
        """The same in one call."""
        y, h = torch.gru(x, h[None], [W, R, b, b_R], True, 1, 0.0, False, False, True)
        return y, h[0]
