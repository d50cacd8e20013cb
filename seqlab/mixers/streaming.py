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
    """The first n_sinks and the last `window` keys, before rotation, and their values.

    position: the number of tokens seen so far.
    """

    k: Float[Tensor, "B n H K"]
    v: Float[Tensor, "B n H K"]
    position: int


class StreamingLLM(Mixer):
    """A window that keeps the first tokens too (Xiao et al. 2023, arXiv:2309.17453).

    y_t = Σ_{s in cache} softmax_s(q_t·k_s / √K) v_s
    cache of t: tokens 0 .. n_sinks-1 and t-window+1 .. t

    The difference from a sliding window: a softmax must put its weight somewhere, and trained
    models put it on the first tokens; a window without them breaks as soon as they leave it.

    Positions are places *in the cache*, so they never exceed its size. When a key is evicted, the
    places of the keys after it change, and so do their angles: cached keys stay unrotated. Within
    the window, a place differs from the token's true position by a constant, and only differences
    of positions count. So `forward` reads all tokens at once in two parts: the window, with true
    positions, and the sinks, seen from place min(t, n_sinks + window - 1). `merge` joins the two by
    their log-sum-exp.

    window includes the token itself. form: "tiled" or "parallel", how the window is read. State:
    StreamingCache.
    """

    FORMS = attention.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_sinks: int = 4,
        window: int = 1024,
        rope_base: float = 10000.0,
        form: str = "tiled",
    ):
        super().__init__(d_model, form)
        if n_sinks < 0 or window < 1:
            raise ValueError(
                f"n_sinks is {n_sinks}, window is {window}: "
                "n_sinks must be at least 0, and window at least 1"
            )
        if form == "sdpa":
            raise ValueError(
                "form is 'sdpa': PyTorch's attention returns no log-sum-exp to merge by; "
                "use 'tiled' or 'parallel'"
            )
        self.n_heads = n_heads
        self.n_sinks = n_sinks
        self.window = window
        maps = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.q, self.k, self.v, self.out = maps
        self.theta = rope_frequencies(head_width(d_model, n_heads, even=True), rope_base)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], StreamingCache]:
        start = 0 if state is None else state.position
        end = start + x.shape[1]
        maps = self.q, self.k, self.v
        q, k, v = (rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads) for W in maps)
        if state is not None:
            k = torch.cat([state.k, k], dim=1)
            v = torch.cat([state.v, v], dim=1)
        positions = torch.arange(start, end, device=x.device)
        y, lse = self._read_window(q, k, v, positions)
        if self.n_sinks and end > self.window:
            y, _ = merge(y, lse, *self._read_sinks(q, k, v, positions))
        y = self.out(rearrange(y, "b t h v -> b t (h v)"))
        return y, StreamingCache(self._keep(k), self._keep(v), end)

    def _read_window(self, q, k, v, positions):
        """The last `window` tokens of each token: in k and v they are contiguous."""
        T = len(positions)
        n = T + min(self.window, k.shape[1] - T)
        last = positions[-1] + 1 + torch.arange(-n, 0, device=q.device)
        q = rotate(q, positions, self.theta)
        k = rotate(k[:, -n:], last, self.theta)
        return self.in_form(q, k, v[:, -n:], causal=True, window=self.window, return_lse=True)

    def _read_sinks(self, q, k, v, positions):
        """The first tokens, for each token whose window they have left.

        Its query is then at the last place of a full cache.
        """
        sinks = torch.arange(min(self.n_sinks, k.shape[1]), device=q.device)
        q = rotate(q, positions.clamp(max=self.n_sinks + self.window - 1), self.theta)
        k = rotate(k[:, : len(sinks)], sinks, self.theta)
        outside = positions[:, None] - sinks >= self.window
        return attend(q, k, v[:, : len(sinks)], mask=outside, return_lse=True)

    def _keep(self, x):
        """The sinks and the window; everything while it fits."""
        if x.shape[1] <= self.n_sinks + self.window:
            return x
        return torch.cat([x[:, : self.n_sinks], x[:, -self.window :]], dim=1)
