import pytest
import torch

from seqlab.core.attention import attend
from seqlab.mixers.path import PaTH

D, T, H = 32, 23, 4


def parts(mixer, x):
    q, k, v = (W(x).unflatten(-1, (H, -1)) for W in (mixer.q, mixer.k, mixer.v))
    w = mixer.conv(mixer.w[1](mixer.w[0](x)))[0].unflatten(-1, (H, -1))
    w = w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    return q, k, v, w, 2 * mixer.beta(x).sigmoid()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("chunk_size", [8, 32])
def test_it_is_flas(fla, float64_for_float32, chunk_size):
    module = fla("path_attn")
    float64_for_float32()
    mixer, x = PaTH(D).double(), torch.randn(2, T, D).double()
    inputs, no_gate = parts(mixer, x), torch.zeros(2, T, H).double()
    y = module.naive_path_attn(*inputs, no_gate, scale=8**-0.5, chunk_size=chunk_size)
    close(mixer(x)[0], mixer.out(y.flatten(2)))


def test_between_a_key_and_a_query_stand_the_reflections_of_the_tokens_between():
    mixer, x = PaTH(D).double(), torch.randn(1, T, D).double()
    q, k, v, w, beta = (u[0, :, 1] for u in parts(mixer, x))
    t, scores = 17, []
    for s in range(t + 1):
        key = k[s]
        for u in range(s + 1, t + 1):
            key = (torch.eye(8) - beta[u] * torch.outer(w[u], w[u])).double() @ key
        scores.append(q[t] @ key / 8**0.5)
    expected = torch.stack(scores).softmax(0) @ v[: t + 1]
    mixer.out.weight.data = torch.eye(D).double()
    close(mixer(x)[0][0, t].view(H, -1)[1], expected)


def test_without_reflections_it_is_attention_without_positions():
    mixer, x = PaTH(D).double(), torch.randn(2, T, D).double()
    mixer.beta.bias.data -= 1e4
    q, k, v, *_ = parts(mixer, x)
    close(mixer(x)[0], mixer.out(attend(q, k, v, causal=True).flatten(2)))


def test_the_sizes_are_the_authors():
    """Through 32 channels, three taps, β from 0 to 2."""
    mixer = PaTH(64)
    assert mixer.w[0].out_features == 32 and mixer.conv.weight.shape == (64, 3)
    assert mixer.beta.bias is not None and mixer.q.bias is None
