from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.inputs import wide
from seqlab.core.scan import linear_scan
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.short_conv import ShortConv

STEEPEST = 1000.0  # the largest slope that `bounded_sqrt` has


class RGLRUState(NamedTuple):
    S: Float[Tensor, "B W 1 1"]
    conv: Float[Tensor, "B past W"]


class RGLRU(Mixer):
    """Griffin's recurrent block around its real-gated linear recurrent unit
    (De et al. 2024, arXiv:2402.19427).

    h_t = a_t h_{t-1} + √(1 - a_t²) (i_t x_t)        log a_t = -8 r_t softplus(Λ)

    The difference from Mamba: each channel has one number h, without B, C or a wider state; r_t and
    i_t are sigmoid gates of x; and √(1 - a²) ties the write to the decay, so that h has the size of
    x however long it remembers. The very first token is written whole (its factor is 1). The
    matrices of the gates are block-diagonal, with n_heads blocks. Block:
    W_o(gelu(W_y u) · RGLRU(conv(W_x u))). In the course's equation a channel is a head with
    V = K = 1 and q = k = 1.

    Λ starts as in the authors' code: e = exp(-softplus(Λ)) has e² uniform in [0.9², 0.999²], and a
    is e⁸ at r = 1. (The paper's text gives that range to e⁸.) form: "scan", the name of a form of
    `seqlab.core.recurrence`, or any function with the signature of `linear_scan` (a kernel).
    State: S (B, W, 1, 1) and the last d_conv - 1 inputs of the convolution.
    """

    FORMS = recurrence.FORMS | {"scan": linear_scan}

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        lru_width: int | None = None,
        d_conv: int = 4,
        bias: bool = True,
        activation: Callable | None = None,
        form: str | Callable = "scan",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        width = lru_width or d_model
        block = head_width(width, n_heads, name="lru_width" if lru_width else "d_model")
        self.activation = activation or partial(F.gelu, approximate="tanh")
        self.x, self.y = (nn.Linear(d_model, width, bias=bias) for _ in range(2))
        self.out = nn.Linear(width, d_model, bias=bias)
        self.conv = ShortConv(width, d_conv, bias=True, activation=None)
        weights = (torch.randn(n_heads, block, block) * block**-0.5 for _ in range(2))
        self.r_weight, self.i_weight = map(nn.Parameter, weights)  # (H, in, out)
        self.r_bias, self.i_bias = (nn.Parameter(torch.zeros(n_heads, block)) for _ in range(2))
        radius = torch.empty(width).uniform_(0.9**2, 0.999**2).sqrt()
        self.Lambda = nn.Parameter((1 / radius - 1).log())  # softplus(Λ) = -log radius

    def _gate(self, x, weight, bias):
        """sigmoid of a block-diagonal linear map."""
        x = rearrange(x, "b t (h i) -> b t h i", h=len(weight))
        logits = torch.einsum("bthi, hij -> bthj", x, weight) + bias
        return torch.sigmoid(rearrange(logits, "b t h j -> b t (h j)"))

    def _recurrence(self, x, first):
        """log a and the write √(1 - a²) i x, (B, T, W). first: the sequence starts here."""
        r = self._gate(x, self.r_weight, self.r_bias)
        i = self._gate(x, self.i_weight, self.i_bias)
        log_a = -8 * wide(r) * F.softplus(wide(self.Lambda))
        scale = bounded_sqrt(-torch.expm1(2 * log_a))
        if first:
            scale = torch.cat([torch.ones_like(scale[:, :1]), scale[:, 1:]], dim=1)
        return log_a, (scale * (i * x)).to(x.dtype)

    def project(
        self, x: Float[Tensor, "B T D"], state: RGLRUState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: log a, v = √(1 - a²) i x, and q = k = 1."""
        x, _ = self.conv(self.x(x), None if state is None else state.conv)
        return self._as_heads(*self._recurrence(x, first=state is None))

    def _as_heads(self, log_a, v):
        one = v.new_ones(*v.shape, 1)
        return {"q": one, "k": one, "v": v[..., None], "log_a": log_a[..., None]}

    def read(self, y: Float[Tensor, "B T W 1"]) -> Float[Tensor, "B T W 1"]:
        """The state is the answer."""
        return y

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RGLRUState]:
        S, past = (None, None) if state is None else state
        gate = self.activation(self.y(x))
        x, past = self.conv(self.x(x), past)
        log_a, v = self._recurrence(x, first=state is None)
        if self.form == "scan" or callable(self.form):
            h = self.in_form(log_a.exp(), v.to(log_a.dtype), None if S is None else S[..., 0, 0])
            y = h.to(x.dtype)
            S = h[:, -1, :, None, None]
        else:
            y, S = self.in_form(**self._as_heads(log_a, v), state=S)
            y = y[..., 0]
        return self.out(gate * y), RGLRUState(S, past)


def bounded_sqrt(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """√x with a slope of at most STEEPEST: at a = 1 the true slope is infinite."""
    root = x.detach().sqrt()
    return root + (x - x.detach()) / (2 * root).clamp(min=1 / STEEPEST)
