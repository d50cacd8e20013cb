import pytest
import torch

from seqlab.norm import GatedRMSNorm, RMSNorm, l2norm, rms_norm
from seqlab.position import rope_frequencies, rotate, xpos, xpos_scale

F64 = {"dtype": torch.float64}


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rotated_score_depends_on_the_distance_alone(interleaved):
    q, k = torch.randn(2, 1, 1, 1, 8, **F64)
    theta = rope_frequencies(8)

    def score(n, m):
        turn = lambda x, p: rotate(x, torch.tensor([p]), theta, interleaved=interleaved)  # noqa: E731
        return (turn(q, n) * turn(k, m)).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100))
    assert not torch.isclose(score(9, 4), score(9, 5))


def test_rotation_is_a_complex_multiplication():
    x, theta = torch.randn(2, 5, 3, 8, **F64), rope_frequencies(8)
    turn = torch.polar(torch.ones(5, 4, **F64), torch.arange(5, **F64)[:, None] * theta)[:, None]
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turn).flatten(-2)
    torch.testing.assert_close(rotate(x, torch.arange(5), theta, interleaved=True), expected)


def test_the_two_layouts_are_one_rotation_up_to_the_order_of_channels():
    x, theta, order = torch.randn(2, 5, 3, 8, **F64), rope_frequencies(8), [0, 2, 4, 6, 1, 3, 5, 7]
    halves = rotate(x[..., order], torch.arange(5), theta)
    torch.testing.assert_close(halves, rotate(x, torch.arange(5), theta, interleaved=True)[..., order])


def test_frequencies_end_where_the_papers_end():
    assert rope_frequencies(8).tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    assert rope_frequencies(8, inclusive=True)[-1] == pytest.approx(1e-4)
    assert rope_frequencies(2, inclusive=True).tolist() == [1.0]
    with pytest.raises(ValueError, match="width is 7"):
        rope_frequencies(7)


def test_xpos_weighs_a_distance_by_zeta_to_that_power():
    q, k = torch.randn(2, 1, 1, 1, 8, **F64)
    theta = rope_frequencies(8)

    def score(n, m):
        a, _ = xpos(q, q, torch.tensor([n]), theta, scale_base=16.0)
        _, b = xpos(k, k, torch.tensor([m]), theta, scale_base=16.0)
        return (a * b).sum()

    torch.testing.assert_close(score(9, 4), score(35, 30))
    at_rest = torch.zeros_like(theta)  # without rotation, only the magnitudes are left
    a, _ = xpos(q, q, torch.tensor([7]), at_rest, scale_base=16.0)
    _, b = xpos(k, k, torch.tensor([2]), at_rest, scale_base=16.0)
    zeta = torch.tensor([(2 * i / 8 + 0.4) / 1.4 for i in range(4)], **F64).repeat(2)
    torch.testing.assert_close((a * b).sum(), (q * k * zeta ** (5 / 16)).sum())
    assert (xpos_scale(torch.arange(3), 8)[0] == 1).all()


def test_norms_against_their_formulas():
    x, gate = torch.randn(2, 3, 8, **F64), torch.randn(2, 3, 8, **F64)
    torch.testing.assert_close(rms_norm(x), torch.nn.functional.rms_norm(x, (8,), eps=1e-6))
    torch.testing.assert_close(l2norm(x).norm(dim=-1), torch.ones(2, 3, **F64), rtol=0, atol=1e-5)
    assert l2norm(torch.zeros(3)).isfinite().all()
    norm, gated = RMSNorm(8).double(), GatedRMSNorm(8).double()
    norm.weight.data.uniform_(), gated.weight.data.copy_(norm.weight.data)
    torch.testing.assert_close(gated(x, gate), norm(x * gate * torch.sigmoid(gate)))
    assert rms_norm(x.bfloat16()).dtype == torch.bfloat16
