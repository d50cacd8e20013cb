import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.scan import linear_scan
from seqlab.core.shift import token_shift
from seqlab.layers.base import Mixer, check_layer


class RWKV4State(NamedTuple):
    """The last input, and the sums of every channel in units of e^peak."""

    last: Float[Tensor, "B D"]
    num: Float[Tensor, "B E"]
    den: Float[Tensor, "B E"]
    peak: Float[Tensor, "B E"]


class RWKV4(Mixer):
    """RWKV-4's time mix (Peng et al. 2023, arXiv:2305.13048): a softmax over the past, one for each
    channel.

    y_t = (Σ_{s<t} e^{(t-1-s) w + k_s} v_s + e^{u + k_t} v_t) / (the same without v)        w = -exp(decay) < 0

    The difference from linear attention: keys are exponents, every channel is a head with one
    number for a key, its decay w is constant, and the newest token has a weight of its own, u. r, k
    and v come from x_t mixed with x_{t-1} (`mu` is the share of x_t). Output: W_o(sigmoid(r_t)
    y_t).

    e^k overflows, so sums are kept in units of e^peak, peak_t = max(peak_{t-1} + w, k_t). A unit,
    not a value: no gradient flows through it. With the peaks known, both sums are one elementwise
    recurrence with gates at most 1: form="scan" (`seqlab.core.scan`, about √T steps) or
    "recurrent". It is its own code, and not `seqlab.core.recurrence`, whose chunks hold C² numbers
    for each head: here, for each channel. State: the last input, num, den and peak.

    Decays, bonus and mixes start as in the authors' code, from `layer` of `n_layers`: deeper layers
    remember longer. A stack: [partial(RWKV4, layer=l, n_layers=L) for l in range(L)]. The matrices
    start as nn.Linear does: the authors' W_k = W_r = W_o = 0 would make every output of a new mixer
    0.
    """

    FORMS = ("scan", "recurrent")

    def __init__(self, d_model, *, d_inner=None, layer=0, n_layers=1, form="scan"):
        super().__init__(d_model, form)
        check_layer(layer, n_layers)
        d_inner = d_inner or d_model
        depth, left = layer / max(n_layers - 1, 1), 1 - layer / n_layers
        channel = torch.arange(d_inner)
        self.decay = nn.Parameter(-5 + 8 * (channel / max(d_inner - 1, 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        ramp = torch.arange(d_model) / d_model
        self.mu = nn.Parameter(
            torch.stack([ramp ** (left / 2), ramp**left, ramp**left + 0.3 * depth])
        )  # of r, k, v
        self.r, self.k, self.v = (nn.Linear(d_model, d_inner, bias=False) for _ in range(3))
        self.out = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV4State]:
        before = token_shift(x, None if state is None else state.last)
        r, k, v = (
            W(before + (x - before) * mu)
            for W, mu in zip((self.r, self.k, self.v), self.mu, strict=True)
        )
        k, v, decay, u = (
            t.to(torch.promote_types(x.dtype, torch.float32))
            for t in (k, v, self.decay, self.bonus)
        )
        if state is None:
            sums, peak = (
                k.new_zeros(k.shape[0], 2, k.shape[2]),
                torch.full_like(k[:, 0], -torch.inf),
            )
        else:
            sums, peak = torch.stack([state.num, state.den], dim=1), state.peak
        y, sums, peak = wkv(
            -decay.exp(), u, k, v, sums, peak, scan if self.form == "scan" else loop
        )
        return self.out(r.sigmoid() * y.to(x.dtype)), RWKV4State(x[:, -1], *sums.unbind(1), peak)


def wkv(w, u, k, v, sums, peak, recurrence):
    """y (B, T, E), and the sums (B, 2, E) and their peak after the last token."""
    peaks = running_peaks(w, k, peak)
    peak_before = torch.cat([peak[:, None], peaks[:, :-1]], dim=1)
    gate = (peak_before + w - peaks).exp()
    writes = (
        torch.stack([v, torch.ones_like(v)], dim=2) * (k - peaks).exp()[:, :, None]
    )  # (B, T, 2, E)
    after = recurrence(gate[:, :, None], writes, sums)
    past, top = (
        torch.cat([sums[:, None], after[:, :-1]], dim=1),
        torch.maximum(peak_before, u + k).detach(),
    )
    num, den = ((peak_before - top).exp()[:, :, None] * past).unbind(
        2
    )  # read before this token's decay
    new = (u + k - top).exp()
    return (num + new * v) / (den + new), after[:, -1], peaks[:, -1]


@torch.no_grad()
def running_peaks(w, k, peak):
    """peak_t = max(peak_{t-1} + w, k_t) for all t at once: seen from a frame that falls with w, a
    running maximum.
    """
    fall = rearrange(torch.arange(1, k.shape[1] + 1, device=k.device), "t -> t 1") * w
    return fall + torch.maximum(peak[:, None], (k - fall).cummax(dim=1).values)


def scan(gate, writes, sums):
    return linear_scan(gate, writes, sums)


def loop(gate, writes, sums):
    after = []
    for a, b in zip(gate.unbind(1), writes.unbind(1), strict=True):
        sums = a * sums + b
        after.append(sums)
    return torch.stack(after, dim=1)
