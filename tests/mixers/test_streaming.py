import pytest
import torch

from seqlab.core.attention import attend, sink_mask
from seqlab.core.position import rope_frequencies
from seqlab.mixers.attention import Attention
from seqlab.mixers.streaming import StreamingLLM

D, H, T, SINKS, W = 32, 4, 29, 3, 7
K = D // H


def make(**options):
    return StreamingLLM(D, H, **{"n_sinks": SINKS, "window": W} | options).double()


def draw(T=T):
    return torch.randn(2, T, D, dtype=torch.float64)


def pairs(u):
    """Channels i and i + K/2 as one complex number."""
    return torch.complex(*u.chunk(2, dim=-1))


def turned(x, n):
    """Complex numbers x (..., K/2) rotated by position n."""
    return x * torch.polar(torch.ones(K // 2, dtype=torch.float64), n * rope_frequencies(K))


@pytest.mark.parametrize("form", ["parallel", "tiled"])
@pytest.mark.parametrize("sinks, window", [(3, 7), (0, 4), (5, 1), (9, 2), (2, 40)])
def test_against_a_cache_kept_token_by_token(form, sinks, window):
    """The paper's loop: append, evict what is neither first nor recent, rotate by the place."""
    mixer, x = make(n_sinks=sinks, window=window, form=form), draw()
    q, k, v = (W(x).unflatten(-1, (H, K)) for W in (mixer.q, mixer.k, mixer.v))
    cache, ys = [], []
    for t in range(T):
        cache.append((pairs(k[:, t]), v[:, t]))
        if len(cache) > sinks + window:
            del cache[sinks]
        read = turned(pairs(q[:, t]), len(cache) - 1)
        keys, values = zip(*cache, strict=True)
        rotated = [turned(key, place) for place, key in enumerate(keys)]
        scores = torch.stack([(read * key.conj()).real.sum(-1) for key in rotated], dim=-1)
        weights = (scores * K**-0.5).softmax(-1)  # (B, H, n)
        ys.append(torch.einsum("bhn, nbhv -> bhv", weights, torch.stack(values)))
    expected = mixer.out(torch.stack(ys, dim=1).flatten(2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_a_prefix_alone_is_the_prefix_of_the_whole():
    """Also the shortest whose sinks are outside the window."""
    mixer, x = make(), draw()
    y, _ = mixer(x)
    for n in range(1, T):
        torch.testing.assert_close(mixer(x[:, :n])[0], y[:, :n], rtol=0, atol=1e-9)


def test_the_cache_holds_the_first_and_the_last_keys_unrotated():
    mixer, x = make(), draw()
    _, state = mixer(x)
    kept = [*range(SINKS), *range(T - W, T)]
    torch.testing.assert_close(state.k.flatten(2), mixer.k(x)[:, kept], rtol=0, atol=1e-12)
    torch.testing.assert_close(state.v.flatten(2), mixer.v(x)[:, kept], rtol=0, atol=1e-12)
    assert state.position == T


def test_a_token_reads_the_sinks_and_its_window_and_nothing_else():
    """The gradient of y_t with respect to the values is zero exactly where the mask is."""
    mixer, x = make(), draw()
    v = []
    mixer.v.register_forward_hook(lambda module, args, out: v.append(out))
    y, mask = mixer(x)[0], sink_mask(T, T, window=W, n_sinks=SINKS)
    for t in range(T):
        (dv,) = torch.autograd.grad(y[0, t].sum(), v, retain_graph=True)
        assert torch.equal(dv[0].abs().sum(-1) > 0, mask[t])


def test_without_sinks_it_is_a_sliding_window():
    streaming, window, x = make(n_sinks=0), Attention(D, H, window=W).double(), draw()
    window.load_state_dict(streaming.state_dict())
    torch.testing.assert_close(streaming(x)[0], window(x)[0], rtol=0, atol=1e-9)


def test_while_everything_fits_it_is_attention():
    streaming, full, x = make(), Attention(D, H).double(), draw(SINKS + W)
    full.load_state_dict(streaming.state_dict())
    torch.testing.assert_close(streaming(x)[0], full(x)[0], rtol=0, atol=1e-9)


def test_without_positions_it_is_the_sink_mask():
    """Only the angles of the sinks distinguish it from a masked softmax."""
    mixer, x = make(), draw()
    mixer.theta = torch.zeros_like(mixer.theta)
    q, k, v = (W(x).unflatten(-1, (H, K)) for W in (mixer.q, mixer.k, mixer.v))
    y = attend(q, k, v, mask=sink_mask(T, T, window=W, n_sinks=SINKS))
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.flatten(2)), rtol=0, atol=1e-9)


def test_a_long_stream_stays_where_it_is():
    """A million tokens later, the same cache gives the same outputs: no angle grows."""
    mixer, x = make(), draw()
    _, state = mixer(x)
    far = state._replace(position=1_000_000)
    ours, theirs = (mixer(x[:, :5], s)[0] for s in (far, state))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["parallel", "tiled"])
def test_scores_beyond_float16_are_no_nan(form):
    """q = k = 256: a score is 256² √K, over float16's 65,504; the weights are still a softmax."""
    mixer, x = make(form=form).half(), torch.ones(2, T, D, dtype=torch.float16)
    mixer.theta = torch.zeros_like(mixer.theta)  # unrotated, all keys are equal
    for W_qk in (mixer.q, mixer.k):
        W_qk.weight.data.fill_(256 / D)
    y, state = mixer(x)
    assert (state.k == 256).all()
    v = mixer.v(x)  # the same for every token, and so is its mean under any weights
    torch.testing.assert_close(y, mixer.out(v), rtol=0.01, atol=0.01)


def test_by_default_it_is_the_papers():
    """Four sinks, and angles with base 10,000."""
    mixer = StreamingLLM(D)
    assert (mixer.n_heads, mixer.n_sinks, mixer.window) == (4, 4, 1024)
    turns = torch.tensor([10000 ** (-2 * i / K) for i in range(K // 2)])
    torch.testing.assert_close(mixer.theta.float(), turns)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_sinks is -1, window is 4"):
        make(n_sinks=-1, window=4)
    with pytest.raises(ValueError, match="n_sinks is 0, window is 0"):
        make(n_sinks=0, window=0)
    with pytest.raises(ValueError, match="returns no log-sum-exp to merge by; use 'tiled' or"):
        make(form="sdpa")
    with pytest.raises(ValueError, match="form is 'flash'"):
        make(form="flash")
