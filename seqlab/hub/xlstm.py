"""xLSTM as in xLSTM-7B: mLSTM and SwiGLU; logits and gates are capped smoothly."""

from functools import partial

from einops import rearrange
from torch import Tensor, nn

from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into
from seqlab.layers.norm import RMSNorm
from seqlab.mixers.mlstm import MLSTM
from seqlab.model import Block, LanguageModel

FIELDS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "embedding_dim": None,
    "num_hidden_layers": 32,
    "num_blocks": None,
    "num_heads": 8,
    "use_bias": False,
    "tie_word_embeddings": False,
    "add_out_norm": True,
    "norm_eps": 1e-6,
    "qk_dim_factor": 0.5,
    "v_dim_factor": 1.0,
    "eps": 1e-6,
    "ffn_proj_factor": 2.667,
    "ffn_round_up_to_multiple_of": 64,
    "gate_soft_cap": 15.0,
    "output_logit_soft_cap": 30.0,
    # Of the first checkpoints.
    "add_post_blocks_norm": True,
    "add_post_norm": False,
    "add_qk_norm": False,
    "cell_norm_eps": 1e-6,
}
# How sums are computed and rounded, and how weights are fused: both ways are in the table of names.
NO_EFFECT = frozenset(
    """
    add_embedding_dropout add_forward_backend_padding autocast_kernel_dtype chunk_size
    chunkwise_kernel force_bos_token_insert head_dim igate_bias_init_range inference_state_dtype
    max_inference_chunksize mlstm_round_up_to_multiple_of mode norm_reduction_force_float32
    return_last_states sequence_kernel step_kernel weight_mode
    """.split()  # noqa: SIM905
)
LAYER = "backbone.blocks.*.mlstm_layer"
OURS = "blocks.*.mixer"
NAMES: Names = {
    "backbone.embeddings": "embedding",
    "backbone.blocks.*.norm_mlstm": "blocks.*.mixer_norm",
    "backbone.blocks.*.norm_ffn": "blocks.*.ffn_norm",
    f"{LAYER}.q": f"{OURS}.q",
    f"{LAYER}.k": f"{OURS}.k",
    f"{LAYER}.v": f"{OURS}.v",
    f"{LAYER}.ogate_preact": f"{OURS}.g",
    f"{LAYER}.igate_preact": f"{OURS}.i",
    f"{LAYER}.fgate_preact": f"{OURS}.f",
    f"{LAYER}.qkv_opreact": into(*(f"{OURS}.{x}" for x in "qkvg")),
    f"{LAYER}.ifgate_preact": into(f"{OURS}.i", f"{OURS}.f"),
    f"{LAYER}.out_proj": f"{OURS}.out",
    "backbone.blocks.*.ffn.proj_up_gate": "blocks.*.ffn.gate",
    "backbone.blocks.*.ffn.proj_up": "blocks.*.ffn.up",
    "backbone.blocks.*.ffn.proj_up_gate_z": into("blocks.*.ffn.gate", "blocks.*.ffn.up"),
    "backbone.blocks.*.ffn.proj_down": "blocks.*.ffn.down",
    "backbone.out_norm": "norm",
    "lm_head": "head",
}


class BiasedRMSNorm(RMSNorm):
    """RMSNorm with a bias."""

    def __init__(self, d_model: int, eps: float):
        super().__init__(d_model, eps)
        self.bias = nn.Parameter(self.weight.new_zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias.to(x.dtype)


def per_head(c: Config, factor: str) -> int:
    """A head's width, if all heads together have `factor` times the model's."""
    width = int(c.hidden_size * getattr(c, factor))
    heads = c.num_heads
    if width % heads:
        c.refuse(factor, f"makes keys or values {width} wide: num_heads, {heads}, must divide that")
    return width // heads


def mlstm(c: Config) -> partial[MLSTM]:
    return partial(
        MLSTM,
        n_heads=c.num_heads,
        d_key=per_head(c, "qk_dim_factor"),
        d_value=per_head(c, "v_dim_factor"),
        bias=c.use_bias,
        soft_cap=c.gate_soft_cap,
        eps=c.eps,
        norm_eps=c.norm_eps,
    )


def swiglu(c: Config) -> partial[SwiGLU]:
    multiple = c.ffn_round_up_to_multiple_of
    width = int((c.hidden_size * c.ffn_proj_factor + multiple - 1) // multiple * multiple)
    return partial(SwiGLU, d_ff=width, bias=c.use_bias)


def build(c: Config) -> LanguageModel:
    if c.embedding_dim not in (None, c.hidden_size):
        c.refuse(
            "embedding_dim",
            f"is {c.embedding_dim}, hidden_size is {c.hidden_size}: they must be equal",
        )
    # If a config has both fields, `transformers` builds num_blocks layers.
    layers, old = c.num_hidden_layers, c.num_blocks

    def block(d_model, mixer, ffn, eps, norm):
        """Its norms may have a bias; the model's last norm, `norm`, has none."""
        return Block(d_model, mixer, ffn, eps, BiasedRMSNorm if c.use_bias else RMSNorm)

    return LanguageModel(
        c.vocab_size,
        c.hidden_size,
        [mlstm(c)] * (old or layers),
        swiglu(c),
        block=block,
        eps=c.norm_eps,
        logit_cap=c.output_logit_soft_cap,
    )


def names(c: Config) -> Names:
    by_head = partial(rearrange, pattern="(h v) -> h v", h=c.num_heads)
    norm = {"weight": f"{OURS}.norm", "bias": f"{OURS}.norm_bias"}
    return NAMES | {
        f"{LAYER}.multihead_norm.{part}": into(ours, by=by_head) for part, ours in norm.items()
    }


XLSTM = Family("xlstm", FIELDS, build, names, NO_EFFECT)
