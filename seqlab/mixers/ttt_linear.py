from jaxtyping import Float
from torch import Tensor

from seqlab.layers.base import head_width
from seqlab.layers.inner_loop import InnerLoop


class TTTLinear(InnerLoop):
    """TTT-Linear (Sun et al. 2024, arXiv:2407.04620): the state is a linear model, trained on the
    sequence it reads.

    f(x; W) = W x        W_t = W_s - e_t Σ_{s<j≤t} η_j g_j k_jᵀ        y_t = q_t + LN(f(q_t; W_t))
    g_j = ∂ℓ_j / ∂(W_s k_j),  ℓ_j = ½ ‖LN(W_s k_j) - (v_j - k_j)‖²        η_j = base_lr σ(θ·x_j + b) / K

    Tokens come in mini-batches of C. W_s is W after token s, the last of the mini-batch before t's,
    and all errors g_j of a mini-batch are taken there. η_j is the step size token j asks for; e_t =
    max(1/i + learned_i, 0) a learned factor for place i = t - s in the mini-batch. LN is a
    LayerNorm with a weight and a bias per head.

    The difference from DeltaNet, whose write is also a gradient step on a squared error: the error
    is seen through the LN, and C tokens take it at one W_s. At C = 1 without the LN it *is* the
    delta rule, with beta = e_1 η.

    Everything around f: `InnerLoop` in seqlab/layers/inner_loop.py (options base_lr, mini_batch,
    d_conv, gate, inner_norm, form). State: W_s with its bias as a last column, and the sum of
    gradients since, each (B, H, K, K + 1); the last d_conv - 1 inputs.
    """

    def __init__(self, d_model, n_heads=4, *, base_lr=1.0, **options):
        K = head_width(d_model, n_heads, even=True)
        super().__init__(d_model, n_heads, (K, K), base_lr=base_lr, **options)

    def model(self, x: Float[Tensor, "B H C K1"], layers) -> Float[Tensor, "B H C K"]:
        """f(x; W) = W x, W x as `layers` computes it."""
        return layers[0](x)

    def errors(
        self,
        k: Float[Tensor, "B H C K1"],
        target: Float[Tensor, "B H C K"],
        W: Float[Tensor, "B H K K1"],
    ):
        """[(k, g)]: ∇ℓ(W; k) = g kᵀ."""
        return [(k, self.loss_gradient(k @ W.mT, target))]
