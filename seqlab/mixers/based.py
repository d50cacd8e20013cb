from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.feature_maps import Taylor
from seqlab.layers.short_conv import ShortConv


class Based(Mixer):
    """The linear attention of Based (Arora et al. 2024, arXiv:2402.18668).

    S_t = S_{t-1} + v_t φ(k_t)ᵀ        y_t = S_t φ(q_t) / z_t·φ(q_t)
    φ(q)·φ(k) = 1 + s + s²/2,  s = q·k / √d

    The difference from linear attention with the same map: q and k are first projected to a small
    width, d = 16 (`d_feature`), so that the table S, with its 1 + d + d² = 273 columns a head,
    remains affordable. The normaliser z is one more row of S, written by a 1 appended to v. Each
    weight is at least ½, so z needs no eps.

    A Based model mixes these layers with short gated convolutions (`BaseConv`) and with attention
    over a small window, for the local comparisons that a polynomial of q·k is too blunt for. The
    window is 256 tokens in the authors' reference configurations, 128 in their examples.
    State: S (B, H, V + 1, 1 + d + d²).
    """

    FORMS = recurrence.FORMS

    normalize = True  # the last row of the state is the normaliser

    def __init__(
        self,
        d_model: int,
        n_heads: int = 16,
        *,
        d_feature: int = 16,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.phi = Taylor()
        self.q, self.k = (nn.Linear(d_model, n_heads * d_feature, bias=False) for _ in range(2))
        self.v, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(2))

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: φ(q), φ(k), and v with its column of ones."""
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        return {"q": self.phi(q), "k": self.phi(k), "v": F.pad(v, (0, 1), value=1.0)}

    def read(self, y: Float[Tensor, "B T H _"]) -> Float[Tensor, "B T H V"]:
        """From S_t φ(q_t) to the head's output: divide by the normaliser."""
        return y[..., :-1] / y[..., -1:]

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(rearrange(self.read(y), "b t h v -> b t (h v)")), state


class BaseConv(Mixer):
    """Based's short gated convolution: y = W_o(silu(conv(W_u x)) · W_g x), three taps per channel.

    The difference from every recurrence: a token sees the two tokens before it and nothing else.
    The inside is twice as wide as the model and has biases, as in the authors' models.
    State: the last d_conv - 1 inputs of the convolution.
    """

    def __init__(self, d_model: int, *, d_conv: int = 3, expand: int = 2):
        super().__init__(d_model)
        self.u, self.g = (nn.Linear(d_model, expand * d_model) for _ in range(2))
        self.conv = ShortConv(expand * d_model, d_conv, bias=True)
        self.out = nn.Linear(expand * d_model, d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        u, state = self.conv(self.u(x), state)
        return self.out(u * self.g(x)), state
