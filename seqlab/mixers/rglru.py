from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.scan import linear_scan
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.short_conv import ShortConv

STEEPEST = 1000.0  # the largest slope of the square root: at a = 1 it is infinite


class RGLRUState(NamedTuple):
    S: Float[Tensor, "B W 1 1"]
    conv: Float[Tensor, "B past W"]


class RGLRU(Mixer):
    """Griffin's recurrent block around the real-gated linear recurrent unit (De et al. 2024,
    arXiv:2402.19427).

    h_t = a_t h_{t-1} + √(1 - a_t²) (i_t x_t)        log a_t = -8 r_t softplus(Λ)        one number h per channel

    The difference from Mamba: no B, C or wider state; r_t and i_t are sigmoid gates of x, and √(1 -
    a²) is tied to the decay, so that h keeps the size of x however long it remembers. The very
    first token is written whole (its factor is 1). The gates' matrices are block-diagonal, n_heads
    blocks. Block: W_o(gelu(W_y u) * RGLRU(conv(W_x u))). In the course's equation a channel is a
    head with V = K = 1 and q = k = 1. State: S (B, W, 1, 1) and the last inputs of the convolution.

    Λ starts so that a channel keeps, per token at r = 1, a^8 with a² uniform in [0.81, 0.998]: the
    authors' code. The paper's text has the power 8 inside that range. form: "scan", a form of
    `seqlab.core.recurrence` by its name, or any function with the signature of `linear_scan` (a
    kernel).
    """

    FORMS = recurrence.FORMS | {"scan": None}

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        lru_width=None,
        d_conv=4,
        bias=True,
        activation=None,
        form="scan",
        chunk_size=64,
    ):
        super().__init__(d_model, form, chunk_size)
        width = lru_width or d_model
        block = head_width(width, n_heads, name="lru_width" if lru_width else "d_model")
        self.activation = activation or partial(F.gelu, approximate="tanh")
        self.x, self.y = (nn.Linear(d_model, width, bias=bias) for _ in range(2))
        self.out = nn.Linear(width, d_model, bias=bias)
        self.conv = ShortConv(width, d_conv, bias=True, activation=None)
        self.r_weight, self.i_weight = (
            nn.Parameter(torch.randn(n_heads, block, block) * block**-0.5) for _ in range(2)
        )  # (H, in, out)
        self.r_bias, self.i_bias = (nn.Parameter(torch.zeros(n_heads, block)) for _ in range(2))
        radius = torch.empty(width).uniform_(0.9**2, 0.999**2).sqrt()
        self.Lambda = nn.Parameter((1 / radius - 1).log())  # softplus(Λ) = -log radius

    def _gate(self, x, weight, bias):
        """sigmoid of a block-diagonal linear map."""
        x = rearrange(x, "b t (h i) -> b t h i", h=len(weight))
        return torch.sigmoid(
            rearrange(torch.einsum("bthi, hij -> bthj", x, weight) + bias, "b t h j -> b t (h j)")
        )

    def _recurrence(self, x, first):
        """log a and what is written (B, T, W). `first`: the sequence starts here."""
        wide = torch.promote_types(x.dtype, torch.float32)
        r, i = self._gate(x, self.r_weight, self.r_bias), self._gate(x, self.i_weight, self.i_bias)
        log_a = -8 * r.to(wide) * F.softplus(self.Lambda.to(wide))
        scale = bounded_sqrt(-torch.expm1(2 * log_a))
        if first:
            scale = torch.cat([torch.ones_like(scale[:, :1]), scale[:, 1:]], dim=1)
        return log_a, (scale * (i * x)).to(x.dtype)

    def project(
        self, x: Float[Tensor, "B T D"], state: RGLRUState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: log a, v = √(1 - a²) i x, and q = k = 1."""
        x, _ = self.conv(self.x(x), None if state is None else state.conv)
        return self._as_heads(*self._recurrence(x, state is None))

    def _as_heads(self, log_a, v):
        one = v.new_ones(*v.shape, 1)
        return {"q": one, "k": one, "v": v[..., None], "log_a": log_a[..., None]}

    def read(self, y: Float[Tensor, "B T W 1"]) -> Float[Tensor, "B T W 1"]:
        """The state is the answer."""
        return y

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RGLRUState]:
        S, conv_state = (None, None) if state is None else state
        gate = self.activation(self.y(x))
        x, conv_state = self.conv(self.x(x), conv_state)
        log_a, v = self._recurrence(x, first=state is None)
        if self.form == "scan" or callable(self.form):
            scan = linear_scan if self.form == "scan" else self.form
            h = scan(log_a.exp(), v.to(log_a.dtype), None if S is None else S[..., 0, 0])
            y, S = h.to(x.dtype), h[:, -1, :, None, None]
        else:
            y, S = self.in_form(**self._as_heads(log_a, v), state=S)
            y = y[..., 0]
        return self.out(gate * y), RGLRUState(S, conv_state)


def bounded_sqrt(x):
    """√x, its slope 1 / (2 √x) cut off at STEEPEST: a gate at a = 1 must not send an infinite
    gradient.
    """
    root = x.detach().sqrt()
    return root + (x - x.detach()) / (2 * root).clamp(min=1 / STEEPEST)
