"""Figures of chapter 08: what they show is what they were given."""

import math

import pytest
import torch

from seqlab.figures import delta


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_circle_is_mapped_by_the_transition(beta):
    fig = delta.turned_at(beta, degrees=20)
    before, after = (torch.tensor([fig.data[i].x, fig.data[i].y]).T for i in (0, 1))
    k = torch.tensor([math.cos(math.radians(20)), math.sin(math.radians(20))])
    A = torch.eye(2) - beta * torch.outer(k, k)
    torch.testing.assert_close(after, before @ A, rtol=0, atol=3e-3)  # three digits are drawn
    assert list(fig.data[-1].y) == [1, 1 - beta]
    assert fig.to_json() == delta.turned_at(beta, degrees=20).to_json()


def test_the_title_says_what_beta_does():
    said = [delta.what_beta_does(beta) for beta in (0.0, 0.25, 1.0, 1.5, 2.0)]
    for words, finding in zip(
        ("nothing happens", "75% of", "projection", "shrunk to 50%", "reflection"),
        said,
        strict=True,
    ):
        assert words in finding
    book = delta.turned([0.0, 1.0], start=1)
    assert [frame.name for frame in book.frames] == ["0", "1"]


def test_a_whole_write_misses_nothing():
    old, new = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])
    fig = delta.overwritten_at(old, new, 1.0, 60)
    assert "0% (delta rule)" in fig.layout.title.text
    # The sum misses v₂ by ½ v₁: half of √5, of a length of √½.
    miss = 0.5 * old.norm() / new.norm()
    assert f"{miss:.0%} (sum)" in fig.layout.title.text
    k1_by_delta = torch.tensor(fig.data[5].y)
    expected = old + 0.5 * (new - 0.5 * old)
    torch.testing.assert_close(k1_by_delta, expected, rtol=0, atol=1e-3)


def test_tables_share_one_scale():
    named = {"one": torch.eye(3), "two": -4 * torch.eye(3)}
    fig = delta.tables(named, title="t")
    assert [trace.zmax for trace in fig.data] == [4, 4]
    assert fig.data[1].z[2][2] == -4 and fig.data[0].z[0][1] == 0


def test_eigenvalues_lie_where_they_are():
    named = {"turn": torch.tensor([1j, -1j]), "swap": torch.tensor([-1.0 + 0j, 1.0])}
    fig = delta.eigenvalues(named, title="t")
    assert list(fig.data[1].y) == [1, -1] and list(fig.data[2].x) == [-1, 1]
    assert len({trace.marker.symbol for trace in fig.data[1:]}) == 2
