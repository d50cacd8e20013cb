"""The layouts of whole models: each a function from sizes to a LanguageModel.

The defaults give a tiny model over 256 bytes. If a layout leaves out something that the authors'
model has, its docstring says so.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.blocks import CrossAttention, SharedBlock, SharedCache, SharedTransformer, Sinusoids
from seqlab.ffn import MLP, ChannelMix, DeepSeekV3Router, MixtralRouter, MoE, SwiGLU, SwitchRouter
from seqlab.mixers.attention import Attention
from seqlab.mixers.gated_deltanet import GatedDeltaNet
from seqlab.mixers.gated_retention import GatedRetention
from seqlab.mixers.hyena import Hyena
from seqlab.mixers.lightning import LightningAttention
from seqlab.mixers.mamba import Mamba
from seqlab.mixers.mamba2 import Mamba2
from seqlab.mixers.mla import MLA
from seqlab.mixers.mlstm import MLSTM
from seqlab.mixers.rglru import RGLRU
from seqlab.mixers.rwkv7 import RWKV7
from seqlab.model import Block, LanguageModel, Parallel, PostNormBlock

Factory = Callable[..., Any]


def every(n_layers: int, period: int, offset: int, usual: Factory, other: Factory) -> list:
    """`other` in layers offset, offset + period, and so on; `usual` in the rest."""
    return [other if i % period == offset else usual for i in range(n_layers)]


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def transformer_2017(*, vocab=256, d_model=32, n_layers=2, n_heads=4, d_ff=64):
    """The decoder alone, without the encoder and the attention to it in each decoder layer."""
    attention = partial(Attention, n_heads=n_heads, rope_base=None)
    mlp = partial(MLP, d_ff=d_ff, activation=F.relu)
    post_norm = {"block": PostNormBlock, "norm": nn.LayerNorm, "final_norm": False, "eps": 1e-5}
    mixers = [Sinusoids, *[attention] * n_layers]
    scale = d_model**0.5
    return LanguageModel(vocab, d_model, mixers, mlp, tie=True, embedding_scale=scale, **post_norm)


def transformer_2026(
    *,
    vocab=256,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=None,
    d_ff=64,
    qk_norm=True,
    rope_base=1e6,
):
    heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head}
    attention = partial(Attention, **heads, qk_norm=qk_norm, rope_base=rope_base)
    return LanguageModel(vocab, d_model, [attention] * n_layers, partial(SwiGLU, d_ff=d_ff))


def falcon_mamba(*, vocab=256, d_model=32, n_layers=3, d_state=8, d_conv=4, expand=2):
    mamba = partial(Mamba, d_state=d_state, d_conv=d_conv, expand=expand, norm_eps=1e-6)
    return LanguageModel(vocab, d_model, [mamba] * n_layers, None, eps=1e-5)


def codestral_mamba(
    *, vocab=256, d_model=32, n_layers=3, n_heads=8, d_state=8, n_groups=2, d_conv=4, expand=2
):
    sizes = {"d_state": d_state, "n_groups": n_groups, "d_conv": d_conv, "expand": expand}
    mamba = partial(Mamba2, n_heads=n_heads, **sizes)
    return LanguageModel(vocab, d_model, [mamba] * n_layers, None, eps=1e-5)


def xlstm(*, vocab=256, d_model=32, n_layers=3, n_heads=4, d_ff=64):
    """All mLSTM: xLSTM 7B has no sLSTM. Keys are half as wide as values; logits are capped."""
    mlstm = [partial(MLSTM, n_heads=n_heads)] * n_layers
    return LanguageModel(vocab, d_model, mlstm, partial(SwiGLU, d_ff=d_ff), logit_cap=30.0)


def rwkv7(*, vocab=256, d_model=32, n_layers=3, n_heads=4):
    """All RWKV-7: time mix and channel mix by turns, LayerNorms, one behind the embedding too."""
    layers = [{"layer": i, "n_layers": n_layers} for i in range(n_layers)]
    time = [partial(RWKV7, n_heads=n_heads, **layer) for layer in layers]
    channel = [partial(ChannelMix, receptance=False, **layer) for layer in layers]
    norms = {"norm": nn.LayerNorm, "eps": 1e-5, "embedding_norm": True}
    return LanguageModel(vocab, d_model, time, channel, **norms)


def switch(
    *, vocab=256, d_model=32, n_layers=2, n_heads=4, d_head=8, d_ff=64, n_experts=4, n_between=0
):
    """The decoder alone, without the encoder, the attention to it, and T5's relative positions.

    n_between: dense layers before each layer of experts.
    """
    attention = partial(Attention, n_heads=n_heads, d_head=d_head, rope_base=None)
    relu = partial(MLP, bias=False, activation=F.relu)
    router = partial(SwitchRouter, capacity_factor=None)
    experts = partial(MoE, n_experts=n_experts, router=router, expert=relu, d_ff=d_ff)
    dense = partial(relu, d_ff=d_ff)
    ffns = every(n_layers, n_between + 1, n_between, dense, experts)
    return LanguageModel(vocab, d_model, [attention] * n_layers, ffns, tie=True)


def mixtral(
    *, vocab=256, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=64, n_experts=4, top_k=2
):
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=1e6)
    router = partial(MixtralRouter, top_k=top_k)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff)
    return LanguageModel(vocab, d_model, [attention] * n_layers, experts, eps=1e-5)


def dbrx(
    *, vocab=256, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=32, n_experts=8, top_k=4
):
    """DBRX also clips q, k and v to ± 8."""
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=5e5)
    router = partial(MixtralRouter, top_k=top_k)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff)

    def norm(d_model, eps):
        return nn.LayerNorm(d_model, eps, bias=False)

    return LanguageModel(vocab, d_model, [attention] * n_layers, experts, norm=norm, eps=1e-5)


def qwen3_moe(
    *,
    vocab=256,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=16,
    d_ff=16,
    n_experts=8,
    top_k=2,
):
    heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head}
    attention = partial(Attention, **heads, qk_norm=True, rope_base=1e6)
    router = partial(MixtralRouter, top_k=top_k)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff)
    return LanguageModel(vocab, d_model, [attention] * n_layers, experts)


def deepseek_v3(
    *,
    vocab=256,
    d_model=32,
    n_layers=3,
    n_dense=1,
    n_heads=4,
    q_rank=16,
    kv_rank=8,
    d_nope=8,
    d_rope=4,
    d_v=8,
    d_ff=64,
    d_expert=16,
    n_experts=8,
    top_k=2,
    n_shared=1,
    n_groups=4,
    top_groups=2,
):
    """Without the layer that predicts the token after next.

    DeepSeek-V3 uses that layer in training; it has 14 B more parameters.
    """
    ranks = {"q_rank": q_rank, "kv_rank": kv_rank, "d_nope": d_nope, "d_rope": d_rope, "d_v": d_v}
    router = partial(DeepSeekV3Router, top_k=top_k, n_groups=n_groups, top_groups=top_groups)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_expert, n_shared=n_shared)
    ffns = [partial(SwiGLU, d_ff=d_ff)] * n_dense + [experts] * (n_layers - n_dense)
    return LanguageModel(vocab, d_model, [partial(MLA, n_heads=n_heads, **ranks)] * n_layers, ffns)


def jamba(
    *,
    vocab=256,
    d_model=32,
    n_layers=8,
    n_heads=4,
    n_kv_heads=2,
    d_ff=64,
    d_state=8,
    d_conv=4,
    expand=2,
    n_experts=4,
    top_k=2,
):
    sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
    mamba = partial(Mamba, **sizes, norm_eps=1e-6, norm_weight=True)
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=None)
    router = partial(MixtralRouter, top_k=top_k, normalise=False)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff)
    ffns = every(n_layers, 2, 1, partial(SwiGLU, d_ff=d_ff), experts)
    return LanguageModel(vocab, d_model, every(n_layers, 8, 4, mamba, attention), ffns)


def bamba(
    *,
    vocab=256,
    d_model=32,
    n_layers=5,
    attention_at=(1, 3),
    n_heads=4,
    n_kv_heads=2,
    d_ff=64,
    ssm_heads=8,
    d_state=8,
    d_conv=4,
    expand=2,
):
    mamba = partial(Mamba2, n_heads=ssm_heads, d_state=d_state, d_conv=d_conv, expand=expand)
    half = d_model // n_heads // 2
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, d_rotary=half)
    mixers = [attention if i in attention_at else mamba for i in range(n_layers)]
    return LanguageModel(vocab, d_model, mixers, partial(SwiGLU, d_ff=d_ff), eps=1e-5)


def shared_transformer(d_model: int, n_heads: int, d_ff: int) -> SharedTransformer:
    """Zamba's: heads on twice the width, scores scaled by (K/2)^-1/2, no positions, GEGLU."""
    scale = (d_model / n_heads) ** -0.5
    attention = partial(Attention, n_heads=n_heads, scale=scale, rope_base=None)
    return SharedTransformer(d_model, attention, partial(SwiGLU, d_ff=d_ff, activation=F.gelu))


def zamba(*, vocab=256, d_model=32, n_layers=9, n_heads=4, d_ff=64, d_state=8, d_conv=4, expand=2):
    """With one Mamba head, whose B, C and Δ read all channels.

    Zamba has two heads, each with B, C and Δ from its own half of the channels.
    """
    transformer = shared_transformer(d_model, n_heads, d_ff)
    mamba = partial(Mamba, d_state=d_state, d_conv=d_conv, expand=expand)

    def alone(d):
        return Block(d, mamba(d), None, 1e-5)

    def calling(d):
        return SharedBlock(d, mamba(d), transformer)

    mixers = [alone, alone, calling, *every(n_layers - 3, 6, 4, alone, calling)]
    return LanguageModel(vocab, d_model, mixers, tie=True, eps=1e-5)


def zamba2(
    *,
    vocab=256,
    d_model=32,
    n_layers=7,
    shared_at=(1, 3, 5),
    n_shared=2,
    rank=4,
    n_heads=4,
    d_ff=64,
    ssm_heads=8,
    d_state=8,
    d_conv=4,
    expand=2,
):
    transformers = [shared_transformer(d_model, n_heads, d_ff) for _ in range(n_shared)]
    mamba = partial(Mamba2, n_heads=ssm_heads, d_state=d_state, d_conv=d_conv, expand=expand)
    calls = {layer: transformers[i % n_shared] for i, layer in enumerate(shared_at)}

    def block(layer, d):
        if layer in calls:
            return SharedBlock(d, mamba(d), calls[layer].adapted(rank))
        return Block(d, mamba(d), None, 1e-5)

    mixers = [partial(block, layer) for layer in range(n_layers)]
    return LanguageModel(vocab, d_model, mixers, tie=True, eps=1e-5)


def samba(
    *,
    vocab=256,
    d_model=32,
    n_layers=4,
    n_heads=4,
    d_ff=64,
    window=16,
    d_state=8,
    d_conv=4,
    expand=2,
):
    mamba = partial(Mamba, d_state=d_state, d_conv=d_conv, expand=expand)
    attention = partial(Attention, n_heads=n_heads, window=window)
    mixers = every(n_layers, 2, 1, mamba, attention)
    return LanguageModel(vocab, d_model, mixers, partial(SwiGLU, d_ff=d_ff), tie=True, eps=1e-5)


def hymba(
    *,
    vocab=256,
    d_model=32,
    n_layers=5,
    n_heads=4,
    n_kv_heads=2,
    d_ff=64,
    window=16,
    d_state=8,
    expand=2,
):
    """Left out: the 128 learned meta tokens before the text, and keys and values shared by pairs of
    neighbouring layers. Hymba has one output matrix for both halves; here each half has its own,
    before its norm.
    """

    def both(window):
        attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, window=window)
        mamba = partial(Mamba, d_state=d_state, expand=expand, norm_eps=1e-6)
        return partial(Parallel, mixers=[attention, mamba])

    whole = {0, n_layers // 2 - (n_layers % 2 == 0), n_layers - 1}
    mixers = [both(None if i in whole else window) for i in range(n_layers)]
    return LanguageModel(vocab, d_model, mixers, partial(SwiGLU, d_ff=d_ff), tie=True)


def griffin(
    *,
    vocab=256,
    d_model=32,
    n_layers=6,
    n_heads=4,
    d_ff=64,
    lru_width=32,
    window=16,
    attention=True,
    **options,
):
    """Griffin; Hawk is griffin(attention=False).

    The paper says RoPE; the authors' code rotates half of each head, and so does this.
    """
    lru = partial(RGLRU, n_heads=n_heads, lru_width=lru_width)
    half = d_model // n_heads // 2
    heads = {"n_heads": n_heads, "n_kv_heads": 1}
    local = partial(Attention, **heads, window=window, d_rotary=half, out_bias=True)
    mixers = every(n_layers, 3, 2, lru, local if attention else lru)
    geglu = partial(SwiGLU, d_ff=d_ff, bias=True, activation=gelu)
    return LanguageModel(vocab, d_model, mixers, geglu, tie=True, **options)


hawk = partial(griffin, attention=False, n_layers=3)


def recurrent_gemma(*, d_model=32, n_layers=5, **sizes):
    """Griffin with its embedding scaled by √D and its logits kept below 30."""
    scale = d_model**0.5
    return griffin(
        d_model=d_model, n_layers=n_layers, embedding_scale=scale, logit_cap=30.0, **sizes
    )


def minimax(
    *,
    vocab=256,
    d_model=32,
    n_layers=8,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_rotary=4,
    d_ff=32,
    n_experts=4,
    top_k=2,
):
    """A post-norm stream, scaled by (2 n_layers)^¼ before each sum: DeepNorm (arXiv:2203.00555)."""
    heads = {"n_heads": n_heads, "d_head": d_head}
    softmax = partial(Attention, **heads, n_kv_heads=n_kv_heads, d_rotary=d_rotary, rope_base=1e7)
    router = partial(MixtralRouter, top_k=top_k)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff)
    kept = (2 * n_layers) ** 0.25
    scale = {"mixer_scale": (kept, 1.0), "ffn_scale": (kept, 1.0)}

    def block(layer, d):
        lightning = partial(LightningAttention, **heads, layer=layer, n_layers=n_layers)
        mixer = softmax(d) if layer % 8 == 7 else lightning(d)
        return PostNormBlock(d, mixer, experts(d), 1e-5, **scale)

    mixers = [partial(block, layer) for layer in range(n_layers)]
    return LanguageModel(vocab, d_model, mixers, eps=1e-5, embedding_norm=True, final_norm=False)


def qwen3_next(
    *,
    vocab=256,
    d_model=32,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    delta_heads=4,
    delta_k_heads=2,
    d_key=8,
    d_value=8,
    d_conv=4,
    d_ff=16,
    n_experts=8,
    top_k=2,
):
    """Without the layer that predicts the token after next."""
    delta_sizes = {"n_k_heads": delta_k_heads, "d_key": d_key, "d_value": d_value, "d_conv": d_conv}
    delta = partial(GatedDeltaNet, n_heads=delta_heads, **delta_sizes, eps=1e-6)
    heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head}
    rotary = {"d_rotary": d_head // 4, "rope_base": 1e7}
    attention = partial(Attention, **heads, **rotary, qk_norm=True, gate=True)
    router = partial(MixtralRouter, top_k=top_k)
    shared = {"n_shared": 1, "gate_shared": True}
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff, **shared)
    return LanguageModel(vocab, d_model, every(n_layers, 4, 3, delta, attention), experts)


def stripedhyena(*, vocab=256, d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=64, l_max=64):
    """With Hyena's filter, a network of time.

    StripedHyena's own filter is a sum of two decaying oscillations per channel.
    """
    hyena = partial(Hyena, l_max=l_max)
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=500000.0)
    mixers = every(n_layers, 2, 1, hyena, attention)
    return LanguageModel(vocab, d_model, mixers, partial(SwiGLU, d_ff=d_ff), eps=1e-5)


def yoco(*, vocab=256, d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=64):
    """A self-decoder, one cache of its output, and a cross-decoder that reads it."""
    below = n_layers // 2
    d_head = d_model // n_heads
    retention = partial(GatedRetention, n_heads=n_heads)
    cache = partial(SharedCache, n_kv_heads=n_kv_heads, d_head=d_head)
    cross = partial(CrossAttention, n_heads=n_heads, d_head=d_head)
    mixers = [retention] * below + [cache] + [cross] * (n_layers - below)
    swiglu = partial(SwiGLU, d_ff=d_ff)
    return LanguageModel(vocab, d_model, mixers, swiglu, embedding_scale=d_model**0.5, eps=1e-5)


def stack_2027(
    *,
    vocab=256,
    d_model=32,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    window=16,
    ssm_heads=8,
    d_state=8,
    d_expert=16,
    n_experts=8,
    top_k=2,
    n_shared=1,
):
    """A sketch, not a model: three Mamba-2 layers to one local attention, and many small experts.

    The hybrids that shipped by 2026 keep global or sparse global attention beside the recurrence
    (Kimi Linear, Qwen3-Next, Nemotron 3); a window alone is what surveys expect, not what is built.
    """
    ssm = partial(Mamba2, n_heads=ssm_heads, d_state=d_state)
    local = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, window=window)
    router = partial(DeepSeekV3Router, top_k=top_k, n_groups=1, top_groups=1)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_expert, n_shared=n_shared)
    return LanguageModel(vocab, d_model, every(n_layers, 4, 3, ssm, local), experts)
