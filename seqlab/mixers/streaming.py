from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import attention
from seqlab.core.attention import attend, merge
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width


class StreamingCache(NamedTuple):
    """The first n_sinks and the last `window` keys, before rotation, and their values. position:
    tokens seen so far.
    """

    k: Float[Tensor, "B n H K"]
    v: Float[Tensor, "B n H K"]
    position: int


class StreamingLLM(Mixer):
    """A window that keeps the first tokens too (Xiao et al. 2023, arXiv:2309.17453).

    y_t = Σ_{s in cache} softmax_s(q_t·k_s / √K) v_s,   cache of t: tokens 0 .. n_sinks-1 and t-window+1 .. t

    The difference from a sliding window: the softmax must put its weight somewhere, and trained
    models put it on the first tokens; without these a window breaks as soon as it leaves them
    behind. Positions are places *in the cache*, so they never exceed its size and cached keys must
    be kept unrotated: a key's angle changes when its neighbours are evicted. Inside the window such
    a place differs from the token's true position by a constant, and only differences count. So all
    tokens at once (`forward`) is two reads: the window with true positions, and the sinks, seen
    from place min(t, n_sinks + window - 1); `merge` joins them by their log-sum-exp.

    window includes the token itself. form: "tiled" or "parallel", how the window is read. State:
    StreamingCache.
    """

    FORMS = attention.FORMS

    def __init__(
        self, d_model, n_heads=4, *, n_sinks=4, window=1024, rope_base=10000.0, form="tiled"
    ):
        super().__init__(d_model, form)
        if n_sinks < 0 or window < 1:
            raise ValueError(
                f"n_sinks is {n_sinks}, window is {window}: at least 0 and at least 1 are needed"
            )
        if form == "sdpa":
            raise ValueError(
                "form is 'sdpa': PyTorch's attention returns no log-sum-exp to merge by; use 'tiled'"
            )
        self.n_heads = n_heads
        self.n_sinks = n_sinks
        self.window = window
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.theta = rope_frequencies(head_width(d_model, n_heads, even=True), rope_base)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], StreamingCache]:
        start = 0 if state is None else state.position
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        at = torch.arange(start, start + x.shape[1], device=x.device)
        y, lse = self._read_window(q, k, v, at)
        if self.n_sinks and start + x.shape[1] > self.window:
            y, _ = merge(y, lse, *self._read_sinks(q, k, v, at))
        cache = StreamingCache(self._keep(k), self._keep(v), start + x.shape[1])
        return self.out(rearrange(y, "b t h v -> b t (h v)")), cache

    def _read_window(self, q, k, v, at):
        """The last `window` tokens: they and their positions are contiguous."""
        n = len(at) + min(self.window, k.shape[1] - len(at))
        q, k = (
            rotate(q, at, self.theta),
            rotate(k[:, -n:], at[-1] + 1 + torch.arange(-n, 0).to(at), self.theta),
        )
        return self.in_form(q, k, v[:, -n:], causal=True, window=self.window, return_lse=True)

    def _read_sinks(self, q, k, v, at):
        """The first tokens, once they have left the window. The query stands at the last place of
        the cache.
        """
        sinks = torch.arange(min(self.n_sinks, k.shape[1]), device=at.device)
        q = rotate(q, at.clamp(max=self.n_sinks + self.window - 1), self.theta)
        k, v = rotate(k[:, : len(sinks)], sinks, self.theta), v[:, : len(sinks)]
        return attend(q, k, v, mask=at[:, None] - sinks >= self.window, return_lse=True)

    def _keep(self, x):
        """The sinks and the window; everything while it fits."""
        if x.shape[1] <= self.n_sinks + self.window:
            return x
        return torch.cat([x[:, : self.n_sinks], x[:, -self.window :]], dim=1)
