import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.rwkv4 import RWKV4

D, T = 32, 23
FORMS = ["scan", "recurrent"]
# layer, how many there are, 1 - layer / L, and layer / (L - 1)
LAYERS = [(0, 4, 1.0, 0.0), (1, 4, 0.75, 1 / 3), (3, 4, 0.25, 1.0), (1, 2, 0.5, 1.0)]


def softmax_over_the_past(mixer, x):
    """y_t = Σ_s softmax_s((t-1-s) w + k_s for s < t, u + k_t for s = t) v_s, every weight apart."""
    before = F.pad(x, (0, 0, 1, -1))
    mixed = [x * mu + before * (1 - mu) for mu in mixer.mu]
    r, k, v = (W(m) for W, m in zip((mixer.r, mixer.k, mixer.v), mixed, strict=True))
    t, w = torch.arange(x.shape[1])[:, None], -mixer.decay.exp()
    logits = (t - 1 - t.T)[..., None] * w + k[:, None]  # (B, t, s, E)
    own = torch.eye(x.shape[1], dtype=torch.bool)[..., None]
    logits = logits.masked_fill((t < t.T)[..., None], -torch.inf)
    logits = torch.where(own, mixer.bonus + k[:, None], logits)
    return mixer.out(torch.sigmoid(r) * (logits.softmax(2) * v[:, None]).sum(2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 1000])
def test_it_is_a_softmax_over_the_past_for_each_channel(form, size):
    """Also for keys in the hundreds, whose exponentials overflow float64."""
    mixer = RWKV4(D, layer=1, n_layers=3, d_inner=20, form=form).double()
    x = size * torch.randn(2, T, D, dtype=torch.float64)
    assert mixer.k(x).abs().max() > (750 if size > 1 else 0)
    torch.testing.assert_close(mixer(x)[0], softmax_over_the_past(mixer, x), rtol=1e-9, atol=1e-9)


def test_the_scan_has_the_gradients_of_the_softmax():
    mixer, x = RWKV4(D).double(), torch.randn(2, T, D, dtype=torch.float64)
    ours = torch.autograd.grad(mixer(x)[0].sin().sum(), mixer.parameters())
    theirs = torch.autograd.grad(softmax_over_the_past(mixer, x).sin().sum(), mixer.parameters())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_peak_is_only_a_unit():
    """The same sums in another unit, num e^c, den e^c and peak - c, give the same outputs."""
    mixer, x = RWKV4(D).double(), torch.randn(2, T, D, dtype=torch.float64)
    _, state = mixer(x[:, :9])
    moved = state._replace(num=state.num * 20, den=state.den * 20, peak=state.peak - math.log(20))
    ours, theirs = (mixer(x[:, 9:], s)[0] for s in (moved, state))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def token_by_token(mixer, x):
    """As the authors' code decodes: sums and their peak, one token at a time."""
    before = F.pad(x, (0, 0, 1, -1))
    mixed = [before + (x - before) * mu for mu in mixer.mu]
    r, k, v = (W(m) for W, m in zip((mixer.r, mixer.k, mixer.v), mixed, strict=True))
    w, u = -mixer.decay.exp(), mixer.bonus
    num = den = torch.zeros_like(k[:, 0])
    peak, ys = torch.full_like(num, -torch.inf), []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        top = torch.maximum(peak, u + k_t)
        past, new = (peak - top).exp(), (u + k_t - top).exp()
        ys.append((past * num + new * v_t) / (past * den + new))
        top = torch.maximum(peak + w, k_t)
        past, new = (peak + w - top).exp(), (k_t - top).exp()
        num, den, peak = past * num + new * v_t, past * den + new, top
    return mixer.out(r.sigmoid() * torch.stack(ys, dim=1))


@pytest.mark.parametrize("form", FORMS)
def test_a_long_sequence_in_float32_is_near_float64(form):
    """4,096 tokens: the frame that falls with w reaches -80,000, and no digit of it matters.

    How many digits the rest leaves depends on the draw (5e-7 to 3e-6). So the bound is twice the
    error of the authors' recurrence, which has no such frame, in float32 on the same numbers, and
    four roundings of the largest output.
    """
    mixer, x = RWKV4(D, form=form), 3 * torch.randn(1, 4096, D)
    with torch.no_grad():
        rough, authors = mixer(x)[0], token_by_token(mixer, x)
        exact = mixer.double()(x.double())[0]
    bound = 2 * (authors - exact).abs().max() + 4 * 2**-24 * exact.abs().max()
    assert (rough - exact).abs().max() <= bound


def test_decays_and_bonus_start_as_in_the_paper():
    """decay from -5 to 3 by the power 0.7 + 1.3 depth; e^u is 0.3 times e^0, e^½, e^-½ in turn."""
    first, last = RWKV4(D, layer=0, n_layers=3), RWKV4(D, layer=2, n_layers=3)
    assert first.decay[0] == last.decay[0] == -5 and first.decay[-1] == last.decay[-1] == 3
    assert first.decay[16].item() == pytest.approx(-5 + 8 * (16 / 31) ** 0.7, abs=1e-6)
    assert last.decay[16].item() == pytest.approx(-5 + 8 * (16 / 31) ** 2, abs=1e-6)
    turns = torch.tensor([0.0, 0.5, -0.5]).repeat(11)[:D]
    for mixer in (first, last):
        torch.testing.assert_close(mixer.bonus.detach().exp(), 0.3 * turns.exp())
    assert RWKV4(D, d_inner=20).decay[[0, -1]].tolist() == [-5, 3]


@pytest.mark.parametrize("layer, L, left, depth", LAYERS)
def test_the_mixes_start_as_the_authors(layer, L, left, depth):
    """Shares of x_t in layer `layer` of L, at channel 8 of 32: powers of ¼, more for v in depth."""
    mixer = RWKV4(D, layer=layer, n_layers=L)
    assert mixer.decay[8].item() == pytest.approx(-5 + 8 * (8 / 31) ** (0.7 + 1.3 * depth))
    r, k, v = mixer.mu
    assert r[8].item() == pytest.approx(0.5**left) and k[8].item() == pytest.approx(0.25**left)
    assert v[8].item() == pytest.approx(0.25**left + 0.3 * depth)
    assert r[0] == k[0] == 0 and v[0].item() == pytest.approx(0.3 * depth)
    assert k[-1].item() == pytest.approx((31 / 32) ** left)


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'parallel': choose 'scan' or 'recurrent'"):
        RWKV4(D, form="parallel")


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    sentence = "layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too"
    with pytest.raises(ValueError, match=sentence):
        RWKV4(D, layer=3)


@pytest.fixture(scope="module")
def transformers_rwkv():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.rwkv import modeling_rwkv
    return modeling_rwkv


@pytest.mark.oracle
@pytest.mark.parametrize("width", [D, 20])
def test_it_is_transformers_attention_in_prefill_and_token_by_token(transformers_rwkv, width):
    """A batch of one: given a state and one token, theirs mixes the rows of a larger batch."""
    sizes = {"hidden_size": D, "attention_hidden_size": width, "num_hidden_layers": 1}
    config = transformers_rwkv.RwkvConfig(**sizes)
    theirs = transformers_rwkv.RwkvSelfAttention(config, 0).double()
    ours = RWKV4(D, d_inner=width).double()
    for p in theirs.parameters():
        p.data.uniform_(-0.5, 0.5)
    ours.decay.data = theirs.time_decay.data
    ours.bonus.data = theirs.time_first.data
    mu = (theirs.time_mix_receptance, theirs.time_mix_key, theirs.time_mix_value)
    ours.mu.data = torch.cat(mu).data[:, 0]
    for name, part in {"r": "receptance", "k": "key", "v": "value", "out": "output"}.items():
        getattr(ours, name).weight.data = getattr(theirs, part).weight.data
    widths, state = [D, D, width, width, width], None
    cache = [torch.zeros(1, n, 1, dtype=torch.float64) for n in widths]
    cache[4] -= 1e38
    for part in torch.randn(1, T, D, dtype=torch.float64).split([17, *[1] * 6], dim=1):
        y, state = ours(part, state)
        expected, cache = theirs(part, state=cache, use_cache=True)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)  # theirs rounds k to float32
        for a, b in zip(state, cache[1:], strict=True):
            torch.testing.assert_close(a, b[..., 0], rtol=1e-6, atol=1e-6)


@pytest.mark.oracle
def test_against_the_rwkv_package(rwkv_package, wide_floats):
    mixer = RWKV4(D, layer=1, n_layers=3).double()
    x, start = torch.randn(T, D, dtype=torch.float64), torch.full((D,), -1e38).double()
    ones, zeros = torch.ones_like(start), torch.zeros_like(start)
    r, k, v, out = (W.weight.T for W in (mixer.r, mixer.k, mixer.v, mixer.out))
    mu_r, mu_k, mu_v = mixer.mu
    y, *state = rwkv_package().RWKV.att_seq(
        None, x, zeros, zeros, zeros, start, ones, zeros, mu_k, mu_v, mu_r,
        -mixer.decay.exp(), mixer.bonus, k, v, r, out, *[None] * 16,
    )  # fmt: skip
    ours, our_state = mixer(F.layer_norm(x, (D,))[None])
    torch.testing.assert_close(x + ours[0], y, rtol=0, atol=1e-9)
    for a, b in zip(our_state, state, strict=True):
        torch.testing.assert_close(a[0], b, rtol=1e-9, atol=1e-9)
