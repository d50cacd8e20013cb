import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.core.scan import linear_scan
from seqlab.core.shift import token_shift
from seqlab.layers.base import Mixer, check_layer


class RWKV4State(NamedTuple):
    """The last input, and the two sums of every channel in units of e^peak."""

    last: Float[Tensor, "B D"]
    num: Float[Tensor, "B E"]
    den: Float[Tensor, "B E"]
    peak: Float[Tensor, "B E"]


class RWKV4(Mixer):
    """RWKV-4's time mix (Peng et al. 2023, arXiv:2305.13048): a softmax over the past, per channel.

    y_t = (Σ_{s<t} e^{(t-1-s) w + k_s} v_s + e^{u + k_t} v_t) / (the same sum without v)
    w = -exp(decay) < 0

    The difference from linear attention: keys are exponents, every channel is a head whose key is
    one number, its decay w is constant, and the newest token has a weight of its own, u. r, k and v
    are linear in x_t mixed with x_{t-1} (`mu` is the share of x_t). Output: W_o(sigmoid(r_t) y_t).

    e^k overflows, so both sums are kept in units of e^peak, peak_t = max(peak_{t-1} + w, k_t). The
    peak is a unit, not a value: no gradient flows through it. Once the peaks are known, both sums
    are one elementwise recurrence with gates of at most 1: form="scan" (`seqlab.core.scan`, about
    √T steps) or "recurrent". A chunk of `seqlab.core.recurrence` holds C² numbers per head, here
    per channel; so RWKV-4 has its own code.

    Decay, bonus and mixes start as in the authors' code, from `layer` of `n_layers`: deeper layers
    remember longer. A stack: [partial(RWKV4, layer=l, n_layers=L) for l in range(L)]. The matrices
    start as nn.Linear does; the authors' W_k = W_r = W_o = 0 would make every output of a new mixer
    0. State: the last input, num, den and peak.
    """

    FORMS = ("scan", "recurrent")

    def __init__(
        self,
        d_model: int,
        *,
        d_inner: int | None = None,
        layer: int = 0,
        n_layers: int = 1,
        form: str = "scan",
    ):
        super().__init__(d_model, form)
        check_layer(layer, n_layers)
        d_inner = d_inner or d_model
        depth = layer / max(n_layers - 1, 1)  # 0 in the first layer, 1 in the last
        left = 1 - layer / n_layers  # 1 in the first layer, near 0 in the last
        channel = torch.arange(d_inner)
        self.decay = nn.Parameter(-5 + 8 * (channel / max(d_inner - 1, 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        ramp = torch.arange(d_model) / d_model
        mu_r = ramp ** (left / 2)
        mu_k = ramp**left
        mu_v = ramp**left + 0.3 * depth
        self.mu = nn.Parameter(torch.stack([mu_r, mu_k, mu_v]))
        self.r, self.k, self.v = (nn.Linear(d_model, d_inner, bias=False) for _ in range(3))
        self.out = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV4State]:
        before = token_shift(x, None if state is None else state.last)
        x_r, x_k, x_v = (before + (x - before) * mu for mu in self.mu)
        r = self.r(x_r)
        k = wide(self.k(x_k))
        v = wide(self.v(x_v))
        if state is None:
            sums = k.new_zeros(k.shape[0], 2, k.shape[2])
            peak = torch.full_like(k[:, 0], -torch.inf)
        else:
            sums = torch.stack([state.num, state.den], dim=1)
            peak = state.peak
        w = -wide(self.decay).exp()
        recurrence = linear_scan if self.form == "scan" else loop
        y, (num, den), peak = wkv(w, wide(self.bonus), k, v, sums, peak, recurrence)
        return self.out(r.sigmoid() * y.to(x.dtype)), RWKV4State(x[:, -1], num, den, peak)


def wkv(w, u, k, v, sums, peak, recurrence):
    """y (B, T, E); after the last token num and den (B, E), and their peak."""
    peaks = running_peaks(w, k, peak)
    peak_before = torch.cat([peak[:, None], peaks[:, :-1]], dim=1)
    gate = (peak_before + w - peaks).exp()
    v_and_1 = torch.stack([v, torch.ones_like(v)], dim=2)  # (B, T, 2, E)
    after = recurrence(gate[:, :, None], v_and_1 * (k - peaks).exp()[:, :, None], sums)
    # Token t reads what t - 1 left, before its own decay.
    before = torch.cat([sums[:, None], after[:, :-1]], dim=1)
    top = torch.maximum(peak_before, u + k).detach()
    num, den = ((peak_before - top).exp()[:, :, None] * before).unbind(2)
    new = (u + k - top).exp()
    return (num + new * v) / (den + new), after[:, -1].unbind(1), peaks[:, -1]


@torch.no_grad()
def running_peaks(w, k, peak):
    """peak_t = max(peak_{t-1} + w, k_t) for all t at once.

    In a frame that falls by w a token, this is a running maximum.
    """
    fall = rearrange(torch.arange(1, k.shape[1] + 1, device=k.device), "t -> t 1") * w
    return fall + torch.maximum(peak[:, None], (k - fall).cummax(dim=1).values)


def loop(gate, writes, sums):
    """h_t = a_t h_{t-1} + b_t, token by token."""
    after = []
    for a, b in zip(gate.unbind(1), writes.unbind(1), strict=True):
        sums = a * sums + b
        after.append(sums)
    return torch.stack(after, dim=1)
