"""Which query may look at which key: by hand, by theorems, and against transformers."""

import warnings
from itertools import product

import pytest
import torch

from seqlab.core.attention import attend
from seqlab.core.masks import (
    bigbird_mask,
    causal_mask,
    distances,
    first_query,
    longformer_mask,
    sink_mask,
    visible_tiles,
)

H = 4
F64 = {"dtype": torch.float64}
SEEN = [{}, {"causal": True}, {"causal": True, "window": 3}, {"causal": True, "align": "start"}]
SEEN += [{"causal": True, "window": 4, "align": "start", "scale": 0.7}]


def test_distances_count_from_the_end_or_from_the_start():
    assert first_query(2, 5) == 3 and first_query(2, 5, "start") == 0
    assert distances(2, 4).tolist() == [[2, 1, 0, -1], [3, 2, 1, 0]]
    assert distances(2, 4, align="start").tolist() == [[0, -1, -2, -3], [1, 0, -1, -2]]


def test_the_defaults_are_the_papers():
    """Four sinks; BigBird: blocks of 64, a window of 3 of them, 3 random ones, 2 global ones."""
    options = {"block": 64, "window": 3, "n_random": 3, "global_blocks": (0, -1), "seed": 0}
    assert torch.equal(bigbird_mask(64 * 9), bigbird_mask(64 * 9, **options))
    assert torch.equal(sink_mask(9, 9, window=2), sink_mask(9, 9, window=2, n_sinks=4))
    plain = longformer_mask(9, window=4, n_global=0, dilation=1, causal=False)
    assert torch.equal(longformer_mask(9, window=4), plain)


def test_the_two_alignments_of_a_causal_mask():
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(2, 4, align="start").int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
    assert causal_mask(3, 3, window=2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_a_tile_is_visited_where_some_pair_is_visible_and_masked_where_some_is_not():
    for (T_q, T_k), tile, seen in product(
        [(11, 11), (5, 13), (13, 5)], [(4, 3), (5, 5), (1, 16)], SEEN
    ):
        options = {name: x for name, x in seen.items() if name != "scale"}
        allowed = torch.ones(T_q, T_k, dtype=torch.bool)
        if options.get("causal"):
            window, align = options.get("window"), options.get("align", "end")
            allowed = causal_mask(T_q, T_k, window=window, align=align)
        drawn = torch.zeros_like(allowed)
        for rows, cols, hidden in visible_tiles(T_q, T_k, **options, tile=tile):
            assert allowed[rows, cols].any() and (hidden is None) == bool(allowed[rows, cols].all())
            assert not drawn[rows, cols].any()
            drawn[rows, cols] = True if hidden is None else ~hidden
        assert torch.equal(drawn, allowed)


def test_how_many_tiles_are_visited_and_masked():
    """Causal: a triangle, masks on its diagonal. A window: about window / tile in each row."""
    count = lambda **seen: len(visible_tiles(1024, 1024, tile=(64, 64), **seen))  # noqa: E731
    tiles = visible_tiles(1024, 1024, causal=True, tile=(64, 64))
    masked = [t for t in tiles if t.hidden is not None]
    assert (count(), count(causal=True), len(masked)) == (256, 136, 16)
    assert all(t.rows == t.cols for t in masked)
    assert len({id(t.hidden) for t in masked}) == 1  # one mask serves the whole diagonal
    assert count(causal=True, window=128) == 1 + 2 + 14 * 3


def test_sinks_are_a_window_and_the_first_tokens():
    mask = sink_mask(6, 6, window=2, n_sinks=1)
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]
    assert torch.equal(sink_mask(6, 6, window=2, n_sinks=0), causal_mask(6, 6, window=2))
    assert torch.equal(sink_mask(2, 6, window=2, n_sinks=1), mask[-2:])
    assert torch.equal(sink_mask(6, 6, window=2, n_sinks=3)[:3], causal_mask(3, 6, align="start"))


def test_longformers_window_reaches_further_when_dilated():
    plain, dilated = longformer_mask(9, window=2), longformer_mask(9, window=2, dilation=3)
    assert plain[4].nonzero().flatten().tolist() == [3, 4, 5]
    assert dilated[4].nonzero().flatten().tolist() == [1, 4, 7]
    two = longformer_mask(9, window=2, n_global=2)
    assert two[:2].all() and two[:, :2].all() and torch.equal(two[2:, 2:], plain[2:, 2:])
    mask = longformer_mask(9, window=2, n_global=[6])
    assert mask[6].all() and mask[:, 6].all()
    assert mask.sum() == plain.sum() + 2 * 9 - 1 - plain[6].sum() * 2 + 1
    assert torch.equal(longformer_mask(9, window=4, causal=True), causal_mask(9, 9, window=3))


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "needs transformers: pip install -e '.[test]'"
        return pytest.importorskip("transformers", reason=reason)


@pytest.mark.oracle
def test_longformer_mask_against_transformers(transformers):
    """Their sliding chunks with global tokens, whose own projections are set to the local ones."""
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = transformers.LongformerConfig(
        hidden_size=24, num_attention_heads=H, attention_window=[4]
    )
    theirs, T = LongformerSelfAttention(config, 0).double().eval(), 20
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name}_global").load_state_dict(getattr(theirs, name).state_dict())
    x, is_global = torch.randn(1, T, 24, **F64), torch.zeros(1, T, dtype=torch.bool)
    is_global[:, [0, 9]] = True
    with torch.no_grad():
        y = theirs(
            x,
            attention_mask=torch.where(is_global, 10000.0, 0.0).double(),
            is_index_masked=torch.zeros_like(is_global),
            is_index_global_attn=is_global,
            is_global_attn=True,
        )[0]
        names = ("query", "key", "value")
        q, k, v = (getattr(theirs, name)(x).unflatten(-1, (H, -1)) for name in names)
    ours = attend(q, k, v, mask=longformer_mask(T, window=4, n_global=[0, 9]))
    torch.testing.assert_close(ours.flatten(2), y, rtol=0, atol=1e-6)  # their softmax is float32


@pytest.mark.oracle
def test_bigbird_mask_against_transformers(transformers):
    """Their window and global blocks are ours. They add as many others, drawn by their own dice."""
    from transformers.models.big_bird.modeling_big_bird import (
        BigBirdBlockSparseAttention,
        BigBirdModel,
    )

    n, block, n_random = 12, 4, 2
    config = transformers.BigBirdConfig(
        hidden_size=24,
        num_attention_heads=H,
        block_size=block,
        num_random_blocks=n_random,
        max_position_embeddings=n * block,
    )
    theirs = BigBirdBlockSparseAttention(config, seed=0).double().train()
    x = torch.randn(1, n * block, 24, **F64)
    blocked, band, rows, cols = BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(1, n * block, **F64), block
    )
    with torch.no_grad():
        y, weights = theirs(x, band, rows, cols, blocked, blocked)
        names = ("query", "key", "value")
        q, k, v = (getattr(theirs, name)(x).unflatten(-1, (H, -1)) for name in names)
    seen = weights[0] > 0  # (H, T, T)
    ours, fixed = (bigbird_mask(n * block, block=block, n_random=r) for r in (n_random, 0))
    assert (seen & fixed).sum() == H * fixed.sum() and (seen.sum(-1) == ours.sum(-1)).all()
    torch.testing.assert_close(attend(q, k, v, mask=seen).flatten(2), y, rtol=0, atol=1e-9)


def test_bigbird_sees_window_global_and_random_blocks():
    n, block = 12, 4
    mask = bigbird_mask(n * block, block=block, n_random=2, seed=1)
    blocks = mask[::block, ::block]
    assert torch.equal(mask, blocks.repeat_interleave(block, 0).repeat_interleave(block, 1))
    assert blocks[0].all() and blocks[-1].all() and blocks[:, 0].all() and blocks[:, -1].all()
    fixed = bigbird_mask(n * block, block=block, n_random=0)[::block, ::block]
    assert (blocks & fixed).sum() == fixed.sum()
    assert (blocks.sum(1)[1:-1] == fixed.sum(1)[1:-1] + 2).all()
    assert fixed[5].nonzero().flatten().tolist() == [0, 4, 5, 6, 11]
    assert torch.equal(mask, bigbird_mask(n * block, block=block, n_random=2, seed=1))
    assert not torch.equal(mask, bigbird_mask(n * block, block=block, n_random=2, seed=2))
    assert bigbird_mask(45, block=block).shape == (45, 45)
    assert bigbird_mask(20, block=4, n_random=99).all()  # more than there are: all of them


def test_wrong_arguments_get_one_clear_sentence():
    with pytest.raises(ValueError, match=r"^window is 0: it must be at least 1"):
        longformer_mask(9, window=0)
    with pytest.raises(ValueError, match=r"^window is 0: it must be at least 1"):
        visible_tiles(9, 9, causal=True, window=0)
    with pytest.raises(ValueError, match=r"^align is 'left': choose 'start' or 'end'"):
        first_query(2, 3, "left")
    visible_tiles(9, 9, causal=True, window=1, tile=(1, 1))  # the least that are allowed
