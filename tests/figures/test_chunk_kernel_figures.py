from types import SimpleNamespace

import pytest
import torch

from seqlab.figures import chunk_kernel as figures
from seqlab.mixers import GLA
from seqlab.model import LanguageModel

pytestmark = pytest.mark.filterwarnings("error")


def test_asked_adds_both_ways_and_all_traces():
    moved = SimpleNamespace(bytes_in=3, bytes_out=4)
    one = SimpleNamespace(traffic={"p_q": moved, "p_S": moved})
    other = SimpleNamespace(traffic={"p_S": moved})
    assert figures.asked(one, other) == {"q": 7, "S": 14}


def test_a_pair_is_computed_in_one_way():
    ways = [figures.way_of(i, j, C=8, B=4) for i, j in ((9, 10), (9, 7), (6, 3), (6, 5), (6, 6))]
    assert ways == [0, 1, 2, 3, 3]


def test_blocks_count_the_pairs_of_the_diagonal():
    # 8 tokens, one chunk, blocks of 2: 4 triangles of 3 pairs, of 36
    assert f"{12 / 36:.0%}" in figures.blocks_at(2, C=8, T=8).layout.title.text
    assert len(figures.blocks([2, 4], C=8, T=8).frames) == 2


def test_an_error_that_is_not_finite_has_a_place_of_its_own():
    found = {"one": {16: [1e-7], 64: [float("nan")]}, "two": {16: [1e-3], 64: [1.0]}}
    fig = figures.decay_errors(found, "t")
    assert list(fig.data[0].y) == [1e-7, figures.NOT_FINITE]
    assert fig.layout.yaxis.ticktext[-1] == "inf or NaN"


def test_exponents_are_percentiles_of_sums_over_chunks():
    torch.manual_seed(0)
    model = LanguageModel(5, 32, [GLA], ffn=None)
    texts = SimpleNamespace(tokens=torch.randint(5, (2, 32)))
    found = figures.exponents_of(model, texts, (8, 16))
    assert model.blocks[0].mixer.form == "chunkwise"
    low, middle, high = found[16]
    assert 0 < low < middle < high
    # σ(0)^(1/16) at each of 16 tokens, nearly
    assert middle == pytest.approx(torch.tensor(2.0).log().item(), rel=0.2)
    fig = figures.exponents({"a": found}, {"float16": 11.0}, "t")
    assert fig.data[0].y[1] == pytest.approx(middle, rel=1e-2)


def test_counts_find_the_fewest_bytes():
    # K = V: bytes 4 · 2K + 2K (C / B + 1) + 4 K² (1 / C + 1 / B) and two gates
    total, states, flops = figures.counted(32, 32, 64, 32)
    assert states == 4 * 1024 * (1 / 64 + 1 / 32)
    assert total == 2 * 64 + 4 + 2 * 64 + (2 * 64 + 4) * 1.5 + states
    assert flops == 4 * 1024 + 2 * 64 * 32 * 1.5
    assert "C = 128" in figures.counts(128, 128, 64).layout.title.text


def test_errors_are_those_against_own_spans_in_float64():
    def decays(log_a):
        own = log_a[:, None].expand(-1, len(log_a)).tril(-1).cumsum(0).exp().tril()
        return {"own spans": own, "half too much": own + 0.5}

    found = figures.errors_of(decays, (4, 8), (0, 1))
    assert [len(found["own spans"][C]) for C in (4, 8)] == [2, 2]
    assert max(found["own spans"][8]) < 1e-6
    assert found["half too much"][8] == pytest.approx([0.5, 0.5], abs=1e-6)
