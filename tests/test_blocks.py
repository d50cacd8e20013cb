"""Blocks with wiring of their own, by their equations."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from seqlab.blocks import (
    Adapted,
    CrossAttention,
    SharedBlock,
    SharedCache,
    SharedTransformer,
    Sinusoids,
)
from seqlab.ffn import SwiGLU
from seqlab.mixers import Attention, Mamba2

D = 12


def transformer(**options):
    attention = partial(Attention, n_heads=3, rope_base=None, scale=(D / 3) ** -0.5, **options)
    return SharedTransformer(D, attention, partial(SwiGLU, d_ff=20)).double()


def test_an_adapted_map_is_the_shared_one_plus_low_rank():
    shared, x = nn.Linear(5, 7).double(), torch.randn(4, 5).double()
    view = Adapted(shared, nn.Linear(5, 2, bias=False)).double()
    torch.testing.assert_close(view(x), shared(x))  # at first
    view.up.weight.data.normal_()
    change = view.up.weight @ view.down.weight
    torch.testing.assert_close(view(x), x @ (shared.weight + change).mT + shared.bias)
    assert torch.linalg.matrix_rank(change) == 2


def test_views_of_a_transformer_share_its_weights_and_nothing_else():
    whole = transformer()
    one, two = whole.adapted(2, attention=True).double(), whole.adapted(2).double()
    shared = set(whole.parameters())
    assert shared < set(one.parameters()) and shared < set(two.parameters())
    assert set(one.parameters()) & set(two.parameters()) == shared
    assert len(set(one.parameters()) - shared) == 3 + 2 * 3
    assert len(set(two.parameters()) - shared) == 3
    assert one.ffn.gate.down is one.ffn.up.down and isinstance(whole.ffn.gate, nn.Linear)
    x, embedding = torch.randn(2, 2, 9, D).double()
    torch.testing.assert_close(one(x, embedding)[0], whole(x, embedding)[0])
    two.ffn.up.up.weight.data.normal_()
    assert (two(x, embedding)[0] - whole(x, embedding)[0]).abs().max() > 1e-3
    torch.testing.assert_close(one(x, embedding)[0], whole(x, embedding)[0])


def test_a_shared_block_feeds_its_transformer_to_the_mixer():
    shared, mamba = transformer(), Mamba2(D, 2, d_state=5).double()
    block = SharedBlock(D, mamba, shared).double()
    x, embedding = torch.randn(2, 2, 9, D).double()
    twice = shared.norm(torch.cat([x, embedding], dim=-1))
    y = shared.ffn(shared.ffn_norm(shared.attention(twice)[0])) @ block.out.weight.mT
    out, (state, cache) = block(x, None, {"embedding": embedding})
    torch.testing.assert_close(out, x + mamba(block.mixer_norm(x + y))[0])
    assert cache.position == 9 and state.S.shape == (2, 2, D, 5)


def test_cross_attention_over_a_shared_cache_is_attention_in_one_matrix():
    """Keys of one vector, queries of another, turned: a score depends on the distance t - s."""
    hinge, cross = SharedCache(D, 1, 6).double(), CrossAttention(D, 2, 6).double()
    below, x = torch.randn(2, 1, 9, D).double()
    shared = {}
    passed, cache = hinge(below, None, shared)
    assert passed is below and cache.k.shape == (1, 9, 1, 6)
    u = hinge.norm(below)

    def complexes(W, v):
        return torch.view_as_complex((v @ W.weight.mT).unflatten(-1, (-1, 3, 2)))

    q, k = complexes(cross.q, x), complexes(hinge.k, u)  # (1, 9, heads, 3)
    theta = torch.tensor([10000 ** -(i / 2) for i in range(3)], dtype=torch.float64)
    distance = torch.arange(9)[:, None] - torch.arange(9)
    turned = torch.polar(torch.ones(9, 9, 3).double(), distance[..., None] * theta)
    scores = torch.einsum("bthi, bsgi, tsi -> bhts", q, k.conj(), turned).real / math.sqrt(6)
    weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
    y = torch.einsum("bhts, bsv -> bthv", weights, u @ hinge.v.weight.mT).flatten(2)
    torch.testing.assert_close(cross(x, None, shared)[0], y @ cross.out.weight.mT)


def test_a_shared_cache_grows_and_queries_know_where_they_stand():
    hinge, cross = SharedCache(D, 1, 6).double(), CrossAttention(D, 2, 6).double()
    below, x = torch.randn(2, 1, 9, D).double()
    shared, state, ys = {}, None, []
    hinge(below, None, shared)
    whole = cross(x, None, shared)[0]
    for part, query in zip(below.split([4, 1, 4], dim=1), x.split([4, 1, 4], dim=1), strict=True):
        shared = {}
        _, state = hinge(part, state, shared)
        ys.append(cross(query, None, shared)[0])
    torch.testing.assert_close(torch.cat(ys, dim=1), whole)


@pytest.mark.parametrize("start", [None, 5])
def test_sinusoids_are_those_of_the_paper(start):
    """PE(t, 2i) = sin(t / 10000^(2i/D)), PE(t, 2i + 1) = cos of the same."""
    x = torch.randn(2, 4, D).double()
    y, end = Sinusoids(D)(x, start)
    first = start or 0
    for t in range(4):
        for i in range(D):
            angle = (first + t) / 10000 ** (i // 2 * 2 / D)
            wave = math.cos(angle) if i % 2 else math.sin(angle)
            torch.testing.assert_close(y[:, t, i], x[:, t, i] + wave)
    assert end == first + 4


def test_no_sequences_pass_through_blocks_that_share():
    shared = {"embedding": torch.randn(0, 5, D).double()}
    x = torch.randn(0, 5, D).double()
    block = SharedBlock(D, Mamba2(D, 2, d_state=5).double(), transformer()).double()
    y, state = block(x, None, shared)
    assert y.shape == (0, 5, D) and block(x, state, shared)[0].shape == (0, 5, D)
    hinge, cross = SharedCache(D, 1, 6).double(), CrossAttention(D, 2, 6).double()
    _, cache = hinge(x, None, shared)
    assert cross(x, None, shared)[0].shape == (0, 5, D)
    hinge(x, cache, shared)
    assert cross(x, None, shared)[0].shape == (0, 5, D)
    assert Sinusoids(D)(x)[0].shape == (0, 5, D)


def test_a_block_that_shares_needs_the_shared_dict():
    x = torch.randn(1, 5, D)
    for block in (SharedCache(D, 1, 6), CrossAttention(D, 2, 6)):
        with pytest.raises(ValueError, match="shared is None: this block reads or writes what"):
            block(x)
