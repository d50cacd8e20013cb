from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.feature_maps import feature_map as make_feature_map
from seqlab.layers.norm import rms_norm


class LinearAttention(Mixer):
    """Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236).

    S_t = S_{t-1} + v_t φ(k_t)ᵀ        z_t = z_{t-1} + φ(k_t)        y_t = S_t φ(q_t) / z_t·φ(q_t)

    The difference from softmax attention: exp(q·k) becomes φ(q)·φ(k), so the sum over the past fits
    in a table S of fixed size. Nothing is ever forgotten. The normaliser z is one more row of S,
    written by a 1 appended to v. Without it (`normalize=False`, the only choice for the identity
    map, whose z·q may be 0), each head is divided by its root mean square instead.

    feature_map: "elu" (φ = elu + 1), "identity", "random" (Performer, arXiv:2009.14794; its width
    is n_features) or "taylor" (Based, arXiv:2402.18668). State: S (B, H, V + 1, F) with the
    normaliser, (B, H, V, F) without.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        feature_map: str = "elu",
        n_features: int = 64,
        normalize: bool | None = None,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_head = head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.phi = make_feature_map(feature_map, d_head, n_features)
        self.normalize = self.phi.positive if normalize is None else normalize
        if self.normalize and not self.phi.positive:
            raise ValueError(
                f"feature_map {feature_map!r} can give a normaliser of 0: pass normalize=False"
            )
        linear = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.q, self.k, self.v, self.out = linear

    def project(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B H _ F"] | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs: φ(q), φ(k), and v with its column of ones."""
        qkv = self.q(x), self.k(x), self.v(x)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv)
        if self.normalize:
            v = F.pad(v, (0, 1), value=1.0)
        return {"q": self.phi(q), "k": self.phi(k), "v": v}

    def read(self, y: Float[Tensor, "B T H _"]) -> Float[Tensor, "B T H V"]:
        """The heads' output: S_t φ(q_t) divided by the normaliser, or by its root mean square."""
        return y[..., :-1] / (y[..., -1:] + 1e-6) if self.normalize else rms_norm(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B H _ F"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H _ F"]]:
        y, S = self.in_form(**self.project(x), state=state)
        return self.out(rearrange(self.read(y), "b t h v -> b t (h v)")), S
