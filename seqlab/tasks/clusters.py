"""Clusters: points of several kinds, each kind with a law of its own."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ClusterBatch(NamedTuple):
    """x (N, D), its target y (N, D), and the cluster that x was drawn from."""

    x: Float[Tensor, "N D"]
    y: Float[Tensor, "N D"]
    cluster: Int[Tensor, " N"]


@dataclass(frozen=True)
class Clusters:
    """x = centre_c + noise, y = A_c x, with a centre and a matrix for each cluster c.

    Centres are normal with standard deviation `spread`, the matrices with 1 / √width, so y is about
    as large as x. One linear map fits one cluster exactly and two clusters badly: a mixture of
    linear experts has no error only if no expert serves two clusters.
    """

    n_clusters: int = 8
    width: int = 8
    spread: float = 2.0
    noise: float = 0.5
    seed: int = 0

    def laws(self) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C D D"]]:
        """The centres and the matrices; the same for the same seed."""
        rng = torch.Generator().manual_seed(self.seed)
        centres = self.spread * torch.randn(self.n_clusters, self.width, generator=rng)
        maps = torch.randn(self.n_clusters, self.width, self.width, generator=rng)
        return centres, maps / self.width**0.5

    def batch(self, n: int, generator: torch.Generator) -> ClusterBatch:
        centres, maps = self.laws()
        cluster = torch.randint(self.n_clusters, (n,), generator=generator)
        x = centres[cluster] + self.noise * torch.randn(n, self.width, generator=generator)
        return ClusterBatch(x, (maps[cluster] @ x[:, :, None])[..., 0], cluster)
