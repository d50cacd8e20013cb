"""The layouts of whole models: each a function from sizes to a LanguageModel, tiny and over 256
bytes by default.

What a model's authors do that is left out here stands in its docstring.
"""

from functools import partial

import torch.nn.functional as F
from torch import nn

from seqlab.blocks import CrossAttention, SharedBlock, SharedCache, SharedTransformer, Sinusoids
from seqlab.ffn import MLP, DeepSeekV3Router, MixtralRouter, MoE, SwiGLU
from seqlab.mixers.attention import Attention
from seqlab.mixers.gated_deltanet import GatedDeltaNet
from seqlab.mixers.gated_retention import GatedRetention
from seqlab.mixers.hyena import Hyena
from seqlab.mixers.lightning import LightningAttention
from seqlab.mixers.mamba import Mamba
from seqlab.mixers.mamba2 import Mamba2
from seqlab.mixers.mla import MLA
from seqlab.mixers.rglru import RGLRU
from seqlab.model import Block, LanguageModel, Parallel, PostNormBlock


def every(n_layers: int, period: int, offset: int, usual, other) -> list:
    """`other` in the layers offset, offset + period, ..; `usual` in the rest."""
    return [other if i % period == offset else usual for i in range(n_layers)]


def gelu(x):
    return F.gelu(x, approximate="tanh")


def transformer_2017(*, vocab=256, d_model=32, n_layers=2, n_heads=4, d_ff=64):
    """The decoder alone: the 2017 model has an encoder beside it, which each decoder layer attends
    to as well.
    """
    attention = partial(Attention, n_heads=n_heads, rope_base=None)
    mlp = partial(MLP, d_ff=d_ff, activation=F.relu)
    post_norm = {"block": PostNormBlock, "norm": nn.LayerNorm, "final_norm": False, "eps": 1e-5}
    mixers = [Sinusoids, *[attention] * n_layers]
    return LanguageModel(
        vocab, d_model, mixers, mlp, tie=True, embedding_scale=d_model**0.5, **post_norm
    )


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
    mamba = partial(
        Mamba2, n_heads=n_heads, d_state=d_state, n_groups=n_groups, d_conv=d_conv, expand=expand
    )
    return LanguageModel(vocab, d_model, [mamba] * n_layers, None, eps=1e-5)


def mixtral(
    *, vocab=256, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=64, n_experts=4, top_k=2
):
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=1e6)
    experts = partial(
        MoE, n_experts=n_experts, router=partial(MixtralRouter, top_k=top_k), d_ff=d_ff
    )
    return LanguageModel(vocab, d_model, [attention] * n_layers, experts, eps=1e-5)


def deepseek_v3(
    *, vocab=256, d_model=32, n_layers=3, n_dense=1, n_heads=4, q_rank=16, kv_rank=8, d_nope=8, d_rope=4, d_v=8,
    d_ff=64, d_expert=16, n_experts=8, top_k=2, n_shared=1, n_groups=4, top_groups=2,
):  # fmt: skip
    """Without the layer that predicts the token after next (in training; 14 B more parameters in
    DeepSeek-V3).
    """
    ranks = {"q_rank": q_rank, "kv_rank": kv_rank, "d_nope": d_nope, "d_rope": d_rope, "d_v": d_v}
    router = partial(DeepSeekV3Router, top_k=top_k, n_groups=n_groups, top_groups=top_groups)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_expert, n_shared=n_shared)
    ffns = [partial(SwiGLU, d_ff=d_ff)] * n_dense + [experts] * (n_layers - n_dense)
    return LanguageModel(vocab, d_model, [partial(MLA, n_heads=n_heads, **ranks)] * n_layers, ffns)


def jamba(
    *, vocab=256, d_model=32, n_layers=8, n_heads=4, n_kv_heads=2, d_ff=64, d_state=8, d_conv=4, expand=2,
    n_experts=4, top_k=2,
):  # fmt: skip
    mamba = partial(
        Mamba, d_state=d_state, d_conv=d_conv, expand=expand, norm_eps=1e-6, norm_weight=True
    )
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=None)
    router = partial(MixtralRouter, top_k=top_k, normalise=False)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_ff)
    ffns = every(n_layers, 2, 1, partial(SwiGLU, d_ff=d_ff), experts)
    return LanguageModel(vocab, d_model, every(n_layers, 8, 4, mamba, attention), ffns)


def bamba(
    *, vocab=256, d_model=32, n_layers=5, attention_at=(1, 3), n_heads=4, n_kv_heads=2, d_ff=64, ssm_heads=8,
    d_state=8, d_conv=4, expand=2,
):  # fmt: skip
    mamba = partial(Mamba2, n_heads=ssm_heads, d_state=d_state, d_conv=d_conv, expand=expand)
    half = d_model // n_heads // 2
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, d_rotary=half)
    mixers = [attention if i in attention_at else mamba for i in range(n_layers)]
    return LanguageModel(vocab, d_model, mixers, partial(SwiGLU, d_ff=d_ff), eps=1e-5)


def shared_transformer(d_model, n_heads, d_ff) -> SharedTransformer:
    """Zamba's: heads on twice the width, scores scaled by (K/2)^-1/2, no positions, GEGLU."""
    attention = partial(
        Attention, n_heads=n_heads, scale=(d_model / n_heads) ** -0.5, rope_base=None
    )
    return SharedTransformer(d_model, attention, partial(SwiGLU, d_ff=d_ff, activation=F.gelu))


def zamba(*, vocab=256, d_model=32, n_layers=9, n_heads=4, d_ff=64, d_state=8, d_conv=4, expand=2):
    """Zamba's Mamba has two heads, each with B, C and Δ from its own half of the channels; here one
    reads all.
    """
    transformer = shared_transformer(d_model, n_heads, d_ff)
    mamba = partial(Mamba, d_state=d_state, d_conv=d_conv, expand=expand)
    alone = lambda d: Block(d, mamba(d), None, 1e-5)  # noqa: E731
    calling = lambda d: SharedBlock(d, mamba(d), transformer)  # noqa: E731
    mixers = [alone, alone, calling, *every(n_layers - 3, 6, 4, alone, calling)]
    return LanguageModel(vocab, d_model, mixers, tie=True, eps=1e-5)


def zamba2(
    *, vocab=256, d_model=32, n_layers=7, shared_at=(1, 3, 5), n_shared=2, rank=4, n_heads=4, d_ff=64, ssm_heads=8,
    d_state=8, d_conv=4, expand=2,
):  # fmt: skip
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
    return LanguageModel(
        vocab,
        d_model,
        every(n_layers, 2, 1, mamba, attention),
        partial(SwiGLU, d_ff=d_ff),
        tie=True,
        eps=1e-5,
    )


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
    """Left out: the 128 learned meta tokens before the text, keys and values shared by pairs of
    neighbouring layers, and one output matrix for both halves (here each has its own, before its
    norm).
    """

    def both(window):
        attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, window=window)
        return partial(
            Parallel,
            mixers=[attention, partial(Mamba, d_state=d_state, expand=expand, norm_eps=1e-6)],
        )

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
    """hawk = griffin(attention=False). The paper's positions are RoPE, its code turns half of each
    head: as here.
    """
    lru = partial(RGLRU, n_heads=n_heads, lru_width=lru_width)
    half = d_model // n_heads // 2
    local = partial(
        Attention, n_heads=n_heads, n_kv_heads=1, window=window, d_rotary=half, out_bias=True
    )
    mixers = every(n_layers, 3, 2, lru, local if attention else lru)
    geglu = partial(SwiGLU, d_ff=d_ff, bias=True, activation=gelu)
    return LanguageModel(vocab, d_model, mixers, geglu, tie=True, **options)


hawk = partial(griffin, attention=False, n_layers=3)


def recurrent_gemma(*, d_model=32, n_layers=5, **sizes):
    """Griffin with its embedding scaled by √D and its logits kept below 30."""
    return griffin(
        d_model=d_model, n_layers=n_layers, embedding_scale=d_model**0.5, logit_cap=30.0, **sizes
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
    """A post-norm stream that keeps (2 n_layers)^¼ of itself: DeepNorm (arXiv:2203.00555)."""
    heads = {"n_heads": n_heads, "d_head": d_head}
    softmax = partial(Attention, **heads, n_kv_heads=n_kv_heads, d_rotary=d_rotary, rope_base=1e7)
    experts = partial(
        MoE, n_experts=n_experts, router=partial(MixtralRouter, top_k=top_k), d_ff=d_ff
    )
    scale = {
        "mixer_scale": ((2 * n_layers) ** 0.25, 1.0),
        "ffn_scale": ((2 * n_layers) ** 0.25, 1.0),
    }

    def block(layer, d):
        lightning = partial(LightningAttention, **heads, layer=layer, n_layers=n_layers)
        mixer = softmax(d) if layer % 8 == 7 else lightning(d)
        return PostNormBlock(d, mixer, experts(d), 1e-5, **scale)

    mixers = [partial(block, layer) for layer in range(n_layers)]
    return LanguageModel(vocab, d_model, mixers, eps=1e-5, embedding_norm=True, final_norm=False)


def qwen3_next(
    *, vocab=256, d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, d_head=8, delta_heads=4, delta_k_heads=2, d_key=8,
    d_value=8, d_conv=4, d_ff=16, n_experts=8, top_k=2,
):  # fmt: skip
    """Without the layer that predicts the token after next."""
    delta = {
        "n_heads": delta_heads,
        "n_k_heads": delta_k_heads,
        "d_key": d_key,
        "d_value": d_value,
        "d_conv": d_conv,
    }
    heads = {
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "d_head": d_head,
        "d_rotary": d_head // 4,
    }
    attention = partial(Attention, **heads, rope_base=1e7, qk_norm=True, gate=True)
    shared = {"n_shared": 1, "gate_shared": True}
    experts = partial(
        MoE, n_experts=n_experts, router=partial(MixtralRouter, top_k=top_k), d_ff=d_ff, **shared
    )
    mixers = every(n_layers, 4, 3, partial(GatedDeltaNet, **delta, eps=1e-6), attention)
    return LanguageModel(vocab, d_model, mixers, experts)


def stripedhyena(*, vocab=256, d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=64, l_max=64):
    """With Hyena's filter (a network of time); StripedHyena's own is a sum of two decaying
    oscillations a channel.
    """
    hyena = partial(Hyena, l_max=l_max)
    attention = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, rope_base=500000.0)
    return LanguageModel(
        vocab,
        d_model,
        every(n_layers, 2, 1, hyena, attention),
        partial(SwiGLU, d_ff=d_ff),
        eps=1e-5,
    )


def yoco(*, vocab=256, d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=64):
    """A self-decoder, one cache of its output, a cross-decoder that reads it."""
    d_head, below = d_model // n_heads, n_layers // 2
    cross = partial(CrossAttention, n_heads=n_heads, d_head=d_head)
    hinge = partial(SharedCache, n_kv_heads=n_kv_heads, d_head=d_head)
    mixers = (
        [partial(GatedRetention, n_heads=n_heads)] * below + [hinge] + [cross] * (n_layers - below)
    )
    return LanguageModel(
        vocab, d_model, mixers, partial(SwiGLU, d_ff=d_ff), embedding_scale=d_model**0.5, eps=1e-5
    )


def stack_2027(
    *, vocab=256, d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, window=16, ssm_heads=8, d_state=8, d_expert=16,
    n_experts=8, top_k=2, n_shared=1,
):  # fmt: skip
    ssm = partial(Mamba2, n_heads=ssm_heads, d_state=d_state)
    local = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, window=window)
    router = partial(DeepSeekV3Router, top_k=top_k, n_groups=1, top_groups=1)
    experts = partial(MoE, n_experts=n_experts, router=router, d_ff=d_expert, n_shared=n_shared)
    return LanguageModel(vocab, d_model, every(n_layers, 4, 3, ssm, local), experts)
