"""The delta rule: a write first removes what its key returned."""

from seqlab.mixers.comba import Comba
from seqlab.mixers.deltanet import DeltaNet
from seqlab.mixers.deltaproduct import DeltaProduct
from seqlab.mixers.gated_deltanet import GatedDeltaNet
from seqlab.mixers.gated_deltanet2 import GatedDeltaNet2
from seqlab.mixers.kda import KDA
from seqlab.mixers.log_linear import LogLinearAttention
from seqlab.mixers.mesanet import MesaNet
from seqlab.zoo.row import CORE_FORMS, H, Row, with_heads

DPLR_FORMS = ("recurrent", "chunkwise")


def conv_floats(*widths, d_conv=4):
    """The short convolution's last d_conv - 1 inputs, for channels of these widths in each head."""
    return (d_conv - 1) * H * sum(widths)


def floats(n_steps=1):
    """K = ¾ D / H and V = 2 K, and the convolution's inputs for `n_steps` keys and values."""

    def state_floats(T, D):
        K = 3 * D // (4 * H)
        V = 2 * K
        return H * V * K + conv_floats(K, n_steps * (K + V))

    return state_floats


ROWS = [
    Row(
        "DeltaNet",
        with_heads(DeltaNet),
        gate="I - β k kᵀ: forgets what this key returned",
        state_floats=lambda T, D: H * (D // H) ** 2 + conv_floats(*[D // H] * 3),
        forms=CORE_FORMS,
        paper="arXiv:2406.06484",
        year=2024,
        chapter=8,
        oracle="fla.ops.delta_rule.naive",
    ),
    Row(
        "Gated DeltaNet",
        with_heads(GatedDeltaNet),
        gate="a_t (I - β k kᵀ): one number per head fades all, then the key is cleared",
        state_floats=floats(),
        forms=CORE_FORMS,
        paper="arXiv:2412.06464",
        year=2024,
        chapter=8,
        oracle="transformers Qwen3NextGatedDeltaNet",
    ),
    Row(
        "KDA",
        with_heads(KDA),
        gate="diag(a_t) (I - β k kᵀ): one number per key channel",
        state_floats=lambda T, D: H * (D // H) ** 2 + conv_floats(*[D // H] * 3),
        forms=CORE_FORMS,
        paper="arXiv:2510.26692",
        year=2025,
        chapter=8,
        oracle="transformers KimiLinearDeltaAttention",
    ),
    Row(
        "DeltaProduct",
        with_heads(DeltaProduct),
        gate="Π_j (I - β_j k_j k_jᵀ): a product of reflections",
        state_floats=floats(n_steps=2),
        forms=CORE_FORMS,
        paper="arXiv:2502.10297",
        year=2025,
        chapter=8,
        oracle="fla.ops.gated_delta_product.naive",
    ),
    Row(
        "Gated DeltaProduct",
        with_heads(DeltaProduct, n_steps=3, forget=True),
        gate="a_t Π_j (I - β_j k_j k_jᵀ)",
        state_floats=floats(n_steps=3),
        forms=CORE_FORMS,
        paper="arXiv:2502.10297",
        year=2025,
        chapter=8,
        oracle="fla.ops.gated_delta_product.naive",
    ),
    Row(
        "Gated DeltaNet-2",
        with_heads(GatedDeltaNet2),
        gate="diag(a_t) (I - (b_t k) kᵀ): erased and written channel by channel",
        state_floats=lambda T, D: H * (D // H) ** 2 + conv_floats(*[D // H] * 3),
        forms=DPLR_FORMS,
        paper="arXiv:2605.22791",
        year=2026,
        chapter=8,
        oracle="fla.ops.gdn2.naive",
    ),
    Row(
        "Comba",
        with_heads(Comba),
        gate="a_t - β σ(b) k kᵀ: reads before it fades, removes a learnt part",
        state_floats=floats(),
        forms=DPLR_FORMS,
        paper="arXiv:2506.02475",
        year=2025,
        chapter=8,
        oracle="fla.ops.comba.naive",
    ),
    Row(
        "MesaNet",
        with_heads(MesaNet),
        gate="a_t, and a read that solves for the best table",
        state_floats=lambda T, D: 2 * H * (D // H) ** 2 + conv_floats(*[D // H] * 2),
        forms=("recurrent", "chunkwise"),
        paper="arXiv:2506.05233",
        year=2025,
        chapter=8,
        oracle="fla.ops.mesa_net.naive",
    ),
    Row(
        "log-linear attention",
        with_heads(LogLinearAttention),
        gate="a_t, in a table for each binary digit of T",
        state_floats=lambda T, D: T.bit_count() * H * (D // H) ** 2 + conv_floats(*[D // H] * 3),
        forms=CORE_FORMS,
        paper="arXiv:2506.04761",
        year=2025,
        chapter=8,
        oracle="fla.ops.log_linear_attn.naive",
    ),
]
