"""Figures of chapter 07: what they show is what they were given."""

import math

import pytest
import torch

from seqlab.figures import ssd


def cells(heat):
    return torch.tensor([[math.nan if z is None else z for z in row] for row in heat.z])


@pytest.mark.parametrize("chunk", [1, 2, 5, 24])
def test_each_pair_of_tokens_belongs_to_one_step(chunk):
    fig = ssd.blocks_at(chunk)
    steps = cells(fig.data[0])
    i, j = torch.arange(24)[:, None], torch.arange(24)
    assert ((steps == 0) == (j > i)).all()
    assert ((steps == 1) == ((i // chunk == j // chunk) & (j <= i))).all()
    n_inside = (steps == 1).sum().item()
    assert f"Chunks of {chunk}: {n_inside} of 300 pairs" in fig.layout.title.text


def test_blocks_opens_on_the_page_that_its_slider_points_at():
    fig = ssd.blocks([1, 6, 24])
    (slider,) = fig.layout.sliders
    assert [step.label for step in slider.steps] == ["1", "6", "24"]
    assert fig.data[0].z == fig.frames[slider.active].data[0].z


def test_singular_values_end_at_the_rank():
    g = torch.Generator().manual_seed(0)
    low = torch.randn(12, 3, generator=g, dtype=torch.float64)
    fig = ssd.singular_values({"rank 3": low @ low.mT}, title="")
    shares = fig.data[0].y
    assert shares[0] == 1 and shares[2] > 1e-3 and max(shares[3:]) < 1e-12


def test_state_cost_draws_milliseconds():
    fig = ssd.state_cost({"scan": {16: 0.5, 32: 1.25}}, title="x")
    assert list(fig.data[0].x) == [16, 32] and list(fig.data[0].y) == [500, 1250]


def test_masks_leave_the_future_blank():
    mask = torch.full((5, 5), 0.5).tril()
    fig = ssd.masks({"a": mask, "b": mask, "c": mask, "d": 2 * mask}, title="x")
    assert len(fig.data) == 4
    assert cells(fig.data[3]).isnan().equal(torch.ones(5, 5).triu(1).bool())
    assert cells(fig.data[3])[4, 0] == 1.0


def test_bits_per_byte_averages_and_converts():
    fig = ssd.bits_per_byte(
        {"model": [math.log(2), 3 * math.log(2), 4 * math.log(2)]},
        {"5-gram": 2.0},
        title="x",
        every=2,
    )
    line, bound = fig.data
    assert list(line.x) == [2, 4] and list(line.y) == pytest.approx([2, 4], abs=1e-3)
    assert list(bound.y) == [2, 2] and "2.00" in bound.name


def test_half_lives_keeps_the_numbers_for_the_pointer():
    lives = torch.tensor([[1.0, 10.0, 1e6], [0.001, 100.0, 5.0]])
    (heat,) = ssd.half_lives(lives, ["a", "b", "c"], title="x").data
    assert cells(heat).tolist()[0] == [0, 1, 4]  # powers of 10, clipped for the colour alone
    assert heat.customdata[1][1] == 100


def test_memory_lines_names_lengths():
    fig = ssd.memory_lines({"cache": [1e9, 2e9]}, [2**10, 2**20], title="x")
    assert list(fig.data[0].y) == [1, 2]
    assert list(fig.layout.xaxis.ticktext) == ["1K", "1M"]
