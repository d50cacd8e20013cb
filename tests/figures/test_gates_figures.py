"""Figures of chapter 05: what they show is what they were given."""

import math

import pytest
import torch

from seqlab.figures import gates


def test_half_lives_has_a_mark_for_each_token_head_and_seed():
    log_a = torch.tensor([[-1.0, -2.0], [-0.5, -0.25], [-0.1, -0.1]])
    kinds = {"names": slice(0, 2), "filler": slice(2, 3)}
    fig = gates.half_lives({"one": [log_a, log_a], "two": [log_a]}, kinds, title="t")
    one, two = fig.data
    assert (len(one.y), len(two.y)) == (12, 6)
    assert list(two.y)[:4] == pytest.approx([math.log(2) / a for a in (1, 2, 0.5, 0.25)], rel=5e-3)
    assert list(fig.layout.xaxis.ticktext) == ["names", "filler"]
    assert max(one.x[:8]) < min(two.x[:4]) < 0.5  # side by side, within their kind


@pytest.mark.parametrize("family", list(gates.FAMILIES))
def test_every_gate_has_rank_one_and_is_open_where_the_dial_is_at_0(family):
    G, _ = gates.gates_of(family, "ab··a··c", 0.8)
    # ABC has nothing to keep at its first token.
    assert (torch.linalg.matrix_rank(G) == 1)[family == "ABC" :].all()
    G, _ = gates.gates_of(family, "ab·", 0.0)
    if family in ("mLSTM", "GateLoop", "ABC"):  # these fade at any dial
        assert (G.abs() <= 1 + 1e-6).all()
    else:
        torch.testing.assert_close(G, torch.ones_like(G))


def test_what_is_left_is_the_product_of_the_later_gates():
    """By hand, for GLA and the text "aba": column a is cleared by the second a alone."""
    fig = gates.family_at("GLA, RWKV-6", 0.75, "aba")
    above, below = fig.data
    assert [row[0] for row in above.z] == [0.25] * 4 and above.z[0][5] == 1
    first, second, last = (tuple(below.z[2][i : i + 4]) for i in (0, 5, 10))
    assert (first, second, last) == ((0.25, 0.25, 1, 1), (0.25, 1, 1, 1), (1, 1, 1, 1))
    assert below.z[0][4] is None  # a gap between two tokens
    assert list(fig.layout.xaxis.ticktext) == list("aba")


def test_abc_keeps_the_mean_of_all_that_went_into_a_slot():
    """With the dial at 0 every token has an equal share, however old."""
    below = gates.family_at("ABC", 0.0, "a·b·").data[1]
    shares = [z for z in below.z[0] if z is not None]
    assert shares == pytest.approx([0.25] * 16)


def test_an_empty_text_is_told_what_to_do():
    with pytest.raises(ValueError, match="write at least one letter"):
        gates.family_at("GLA, RWKV-6", 0.5, "")


def test_families_has_a_page_for_each():
    fig = gates.families()
    assert [frame.name for frame in fig.frames] == list(gates.FAMILIES)


def test_identities_draws_an_arrow_for_each_edge_and_its_change():
    fig = gates.identities([("GLA", "every gate is 1", "linear attention")])
    arrows = [a for a in fig.layout.annotations if a.showarrow]
    words = [a.text for a in fig.layout.annotations if not a.showarrow]
    assert len(arrows) == 1 and (arrows[0].x, arrows[0].y) == gates.PLACES["linear attention"]
    assert words == ["every gate is 1", "<b>linear attention</b>", "<b>GLA</b>"]
    assert fig.layout.annotations[0].showarrow  # arrows first, so that none crosses the words
    assert fig.layout.title.text.startswith("1 identities hold")
    with pytest.raises(ValueError, match="no place is given for Nothing"):
        gates.identities([("GLA", "x", "Nothing")])
