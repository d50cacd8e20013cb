"""Qwen3-Next: three Gated DeltaNets, then one gated attention; many small experts.

A shared expert has a gate. The weights of the norms are stored as w - 1, except for the one inside
Gated DeltaNet.
"""

from functools import partial

import torch
from torch import Tensor

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import MixtralRouter
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, experts, into, plus_one, without_channel
from seqlab.mixers.gated_deltanet import GatedDeltaNet
from seqlab.model import LanguageModel

FIELDS = llama.FIELDS | {
    "partial_rotary_factor": 0.25,
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    "layer_types": None,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "norm_topk_prob": True,
    "use_sliding_window": False,
}
DELTA = "model.layers.*.linear_attn"
ATTENTION = "model.layers.*.self_attn"
NAMES = llama.NAMES | {
    "model.layers.*.input_layernorm": into("blocks.*.mixer_norm", by=plus_one),
    "model.layers.*.post_attention_layernorm": into("blocks.*.ffn_norm", by=plus_one),
    "model.norm": into("norm", by=plus_one),
    f"{ATTENTION}.q_norm": into("blocks.*.mixer.q_norm", by=plus_one),
    f"{ATTENTION}.k_norm": into("blocks.*.mixer.k_norm", by=plus_one),
    f"{DELTA}.conv1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
    f"{DELTA}.A_log": "blocks.*.mixer.A_log",
    f"{DELTA}.dt_bias": "blocks.*.mixer.dt_bias",
    f"{DELTA}.norm.weight": "blocks.*.mixer.norm",
    f"{DELTA}.out_proj": "blocks.*.mixer.out",
    "model.layers.*.mlp.gate": "blocks.*.ffn.router.score",
    "model.layers.*.mlp.shared_expert.gate_proj": "blocks.*.ffn.shared.gate",
    "model.layers.*.mlp.shared_expert.up_proj": "blocks.*.ffn.shared.up",
    "model.layers.*.mlp.shared_expert.down_proj": "blocks.*.ffn.shared.down",
    "model.layers.*.mlp.shared_expert_gate": "blocks.*.ffn.shared_gate",
    "mtp": None,  # it predicts the token after next
}


def gated_deltanet(c: Config) -> partial[GatedDeltaNet]:
    return partial(
        GatedDeltaNet,
        n_heads=c.linear_num_value_heads,
        n_k_heads=c.linear_num_key_heads,
        d_key=c.linear_key_head_dim,
        d_value=c.linear_value_head_dim,
        d_conv=c.linear_conv_kernel_dim,
        activation=activation(c),
        eps=c.rms_norm_eps,
    )


def moe(c: Config) -> partial[MoE]:
    router = partial(MixtralRouter, top_k=c.num_experts_per_tok, normalise=c.norm_topk_prob)
    expert = partial(SwiGLU, activation=activation(c))
    sizes = {"n_experts": c.num_experts, "d_ff": c.moe_intermediate_size}
    width = c.shared_expert_intermediate_size
    shared = {"n_shared": 1, "d_shared": width, "gate_shared": True} if width else {}
    return partial(MoE, router=router, expert=expert, **sizes, **shared)


def build(c: Config) -> LanguageModel:
    layers = range(c.num_hidden_layers)
    attention = llama.attention(
        c, partial_rotary=True, bias=c.attention_bias, qk_norm=True, gate=True, eps=c.rms_norm_eps
    )
    kinds = {"linear_attention": gated_deltanet(c), "full_attention": attention}
    every = c.full_attention_interval
    wanted = c.layer_types or [
        "linear_attention" if (layer + 1) % every else "full_attention" for layer in layers
    ]
    dense = llama.swiglu(c)
    sparse = moe(c)
    alone = c.mlp_only_layers or []
    step = c.decoder_sparse_step
    is_dense = [c.num_experts == 0 or layer in alone or (layer + 1) % step for layer in layers]
    ffns = [dense if d else sparse for d in is_dense]
    return llama.model_of(c, c.per_layer("layer_types", wanted, kinds), ffns)


def names(c: Config) -> Names:
    k_heads = c.linear_num_key_heads
    group = c.linear_num_value_heads // k_heads
    key = c.linear_key_head_dim
    values = group * c.linear_value_head_dim
    qkvz = partial(part_by_part, groups=k_heads, sizes=[key, key, values, values])
    ba = partial(part_by_part, groups=k_heads, sizes=[group, group])
    q_gate = partial(part_by_part, groups=c.num_attention_heads, sizes=[c.head_dim, c.head_dim])
    ours = "blocks.*.mixer"
    table = NAMES | {
        f"{DELTA}.in_proj_qkvz.weight": into(f"{ours}.qkv.weight", f"{ours}.gate.weight", by=qkvz),
        f"{DELTA}.in_proj_ba.weight": into(f"{ours}.beta.weight", f"{ours}.decay.weight", by=ba),
        f"{ATTENTION}.q_proj": into(f"{ours}.q", f"{ours}.gate", by=q_gate),
    }
    table |= experts("model.layers.*.mlp.experts", "blocks.*.ffn.experts", c.num_experts)
    if c.shared_expert_intermediate_size == 0:  # theirs exists, with width 0
        table |= {name: None for name in NAMES if ".shared_expert" in name}
    return table


def part_by_part(weight: Tensor, groups: int, sizes: list[int]) -> Tensor:
    """Rows ordered by part, where `weight` has them ordered by group.

    Each group holds parts of these sizes; the result has the first part of all groups first.
    """
    parts = weight.unflatten(0, (groups, -1)).split(sizes, dim=1)
    return torch.cat([part.flatten(0, 1) for part in parts])


QWEN3_NEXT = Family("qwen3_next", FIELDS, build, names)
