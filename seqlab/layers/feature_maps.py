"""Feature maps φ for linear attention: φ(q)·φ(k) takes the place of exp(q·k / √K).

Each is a module from (..., K) to (..., F), with `out_features(K)` = F. `positive`: whether
φ(q)·φ(k) > 0, so that a normaliser can divide by it.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Identity(nn.Module):
    """φ(x) = x. The scores q·k may be negative, so they are not normalised."""

    positive = False

    def out_features(self, d_head: int) -> int:
        return d_head

    def forward(self, x: Tensor) -> Tensor:
        return x


class Elu(Identity):
    """φ(x) = elu(x) + 1 > 0 (Katharopoulos et al. 2020, arXiv:2006.16236)."""

    positive = True

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x) + 1


class Taylor(nn.Module):
    """φ(x) = [1, x / K^¼, (x ⊗ x) / √(2K)] (Based, Arora et al. 2024, arXiv:2402.18668).

    So φ(q)·φ(k) = 1 + s + s²/2 with s = q·k / √K, the second-order Taylor polynomial of exp(s):
    always at least ½, and wrong far from s = 0.
    """

    positive = True

    def out_features(self, d_head: int) -> int:
        return 1 + d_head + d_head**2

    def forward(self, x: Tensor) -> Tensor:
        K = x.shape[-1]
        pairs = rearrange(x[..., :, None] * x[..., None, :], "... i j -> ... (i j)")
        one = torch.ones_like(x[..., :1])
        return torch.cat([one, x / K**0.25, pairs / math.sqrt(2 * K)], dim=-1)


class RandomFeatures(nn.Module):
    """φ(x) = exp(w_i·x̂ - ‖x̂‖²/2) / √F with x̂ = x / K^¼ and F random w_i.

    Performer (Choromanski et al. 2020, arXiv:2009.14794). The mean of φ(q)·φ(k) over w is exactly
    exp(q·k / √K); its spread falls as 1/√F. The w_i are orthogonal in blocks of K, which lowers the
    spread. They are drawn once, from `seed`, and kept with the weights.
    """

    w: Tensor
    positive = True

    def __init__(self, d_head: int, n_features: int = 64, seed: int = 0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        n_blocks = math.ceil(n_features / d_head)
        blocks = [_random_rotation(d_head, rng) for _ in range(n_blocks)]
        lengths = torch.randn(n_features, d_head, generator=rng).norm(dim=-1, keepdim=True)
        self.register_buffer("w", torch.cat(blocks)[:n_features] * lengths)  # (F, K)

    def out_features(self, d_head: int) -> int:
        return len(self.w)

    def forward(self, x: Tensor) -> Tensor:
        x = x / x.shape[-1] ** 0.25
        return (x @ self.w.mT - x.square().sum(-1, keepdim=True) / 2).exp() / math.sqrt(len(self.w))


def _random_rotation(n: int, rng: torch.Generator) -> Tensor:
    """Uniform among the orthogonal n × n matrices.

    QR alone is not uniform: LAPACK fixes the signs of Q by those of R's diagonal. This undoes it.
    """
    Q, R = torch.linalg.qr(torch.randn(n, n, generator=rng))
    return Q * R.diagonal().sign()


def feature_map(name: str, d_head: int, n_features: int = 64) -> nn.Module:
    """The map called `name`: identity, elu, taylor or random."""
    maps: dict[str, Callable[[], nn.Module]] = {
        "identity": Identity,
        "elu": Elu,
        "taylor": Taylor,
        "random": partial(RandomFeatures, d_head, n_features),
    }
    if name not in maps:
        raise ValueError(f"feature_map is {name!r}: choose one of {', '.join(maps)}")
    return maps[name]()
