import pytest
import torch

from seqlab.core.attention import attend
from seqlab.mixers.forgetting import ForgettingAttention

D, T, H = 32, 23, 4


def parts(mixer, x):
    q, k, v = (W(x).unflatten(-1, (H, -1)) for W in (mixer.q, mixer.k, mixer.v))
    return q, k, v, mixer.forget(x).sigmoid().log()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.oracle
def test_it_is_flas(fla, float64_for_float32):
    module = fla("forgetting_attn")
    float64_for_float32()
    mixer, x = ForgettingAttention(D).double(), torch.randn(2, T, D).double()
    y = module.naive_forgetting_attn(*parts(mixer, x))
    close(mixer(x)[0], mixer.out(y.flatten(2)))


def test_each_weight_is_multiplied_by_the_gates_between():
    mixer, x = ForgettingAttention(D).double(), torch.randn(1, T, D).double()
    q, k, v, g = (u[0, :, 2] for u in parts(mixer, x))
    t, f = 15, g.exp()
    weights = torch.stack(
        [(q[t] @ k[s] / 8**0.5).exp() * f[s + 1 : t + 1].prod() for s in range(t + 1)]
    )
    expected = (weights / weights.sum()) @ v[: t + 1]
    mixer.out.weight.data = torch.eye(D).double()
    close(mixer(x)[0][0, t].view(H, -1)[2], expected)


def test_open_gates_are_attention():
    mixer, x = ForgettingAttention(D).double(), torch.randn(2, T, D).double()
    mixer.forget.bias.data += 1e4
    q, k, v, _ = parts(mixer, x)
    close(mixer(x)[0], mixer.out(attend(q, k, v, causal=True).flatten(2)))
