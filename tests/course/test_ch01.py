"""Chapter 01: answers that people give and that are nearly right do not pass, and what they are
told holds for them.
"""

import pytest
import torch
import torch.nn.functional as F

from seqlab.core import position
from seqlab.core.attention import attend
from seqlab.course import exercises
from seqlab.course.checking import report_on
from seqlab.zoo import recipe

REFERENCE = {e.name: e.reference for e in exercises.of_chapter("01")}
LLAMA = recipe("Transformer 2026").published["Llama 3.1 70B"]


def by_name(name):
    return next(e for e in exercises.of_chapter("01") if e.name == name)


# shared_read


def read(q, k, v, *, scale=None, mask=None, weigh=torch.softmax):
    """The read with copies of the keys, and its parts as dials."""
    copies = q.shape[1] // k.shape[2]
    k, v = (u.repeat_interleave(copies, dim=2) for u in (k, v))
    scores = torch.einsum("bhk, bshk -> bhs", q, k) * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(mask(scores.shape[-1]), -torch.inf)
    return torch.einsum("bhs, bshv -> bhv", weigh(scores, dim=-1), v)


def exp_without_its_largest(x, dim):
    return x.exp() / x.exp().sum(dim, keepdim=True)


def by_broadcasting(q, k, v):
    B, H, K = q.shape
    groups = q.view(B, 1, k.shape[2], -1, K)
    p = ((groups * k[:, :, :, None]).sum(-1) * K**-0.5).softmax(1)
    return (p[..., None] * v[:, :, :, None]).sum(1).reshape(B, H, -1)


def first_group_only(q, k, v):
    h = k.shape[2]
    y = read(q[:, :h], k, v)
    return y.repeat_interleave(q.shape[1] // h, dim=1)


def whole_heads_flat(q, k, v):
    """All heads of a group as one wide head."""
    B, H, K = q.shape
    h = k.shape[2]
    wide = q.view(B, h, H // h, K).sum(2)
    y = read(wide, k, v, scale=K**-0.5)
    return y.repeat_interleave(H // h, dim=1)


SHARED_READ = {
    "copies": read,
    "by broadcasting": by_broadcasting,
    "exp without its largest": lambda q, k, v: read(q, k, v, weigh=exp_without_its_largest),
    "sigmoid": lambda q, k, v: read(q, k, v, weigh=lambda x, dim: x.sigmoid()),
    "shares of the sum": lambda q, k, v: read(q, k, v, weigh=lambda x, dim: x / x.sum(dim, True)),
    "the oldest is hidden": lambda q, k, v: read(
        q, k, v, mask=lambda S: (torch.arange(S) == 0) & (S > 1)
    ),
    "only the oldest is seen": lambda q, k, v: read(q, k, v, mask=lambda S: torch.arange(S) > 0),
    "the scale of k's heads": lambda q, k, v: read(
        q, k, v, scale=(k.shape[2] * k.shape[3]) ** -0.5
    ),
    "scale times √K": lambda q, k, v: read(q, k, v, scale=q.shape[-1] ** 0.5),
    "the first heads' queries": first_group_only,
    "queries of a group added up": whole_heads_flat,
    "q and k of length 1": lambda q, k, v: read(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v),
    "the values' mean": lambda q, k, v: read(0 * q, k, v),
    "the keys are returned": lambda q, k, v: read(q, k, k),
    "an axis of time kept": lambda q, k, v: attend(q[:, None], k, v),
    "a query from the back": lambda q, k, v: read(q.flip(1), k, v),
}

# centred


def norms_its_weights(W, b):
    W, b = W - W.mean(0), b - b.mean()
    return W / W.square().mean(0).sqrt(), b / b.square().mean().sqrt()


def in_place(W, b):
    W -= W.mean(0)
    b -= b.mean()
    return W, b


CENTRED = {
    "mean of |W|": lambda W, b: (W - W.abs().mean(0), b - b.abs().mean()),
    "mean and deviation": norms_its_weights,
    "as layer_norm over inputs": lambda W, b: (F.layer_norm(W, W.shape[1:]), b - b.mean()),
    "as layer_norm over outputs": lambda W, b: (F.layer_norm(W.mT, W.shape[:1]).mT, b - b.mean()),
    "in place": in_place,
    "correction of the mean": lambda W, b: (W - W.sum(0) / max(len(b) - 1, 1), b - b.mean()),
    "b counted with W": lambda W, b: (W - (W.sum(0) + b.mean()) / len(b), b - b.mean()),
    "b by W's mean": lambda W, b: (W - W.mean(0), b - W.mean()),
    "both axes": lambda W, b: (W - W.mean(0) - W.mean(1, keepdim=True), b - b.mean()),
    "twice as long": lambda W, b: (2 * (W - W.mean(0)), 2 * (b - b.mean())),
    "the first row": lambda W, b: (W - W[0], b - b[0]),
    "midrange": lambda W, b: (
        W - (W.amax(0) + W.amin(0)) / 2,
        b - (b.max() + b.min()) / 2,
    ),
    "by the number of inputs": lambda W, b: (W - W.sum(0) / W.shape[1], b - b.mean()),
    "a column for b": lambda W, b: (W - W.mean(0), (b - b.mean())[:, None]),
    "the other sign": lambda W, b: (W.mean(0) - W, b.mean() - b),
    "one output less": lambda W, b: ((W - W.mean(0))[:-1], (b - b.mean())[:-1]),
}

# rope


def turned(x, angle, halves=True):
    c, s = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1) if halves else (x[..., 0::2], x[..., 1::2])
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def at(x, start):
    return start[:, None] + torch.arange(x.shape[1])


def theta(x, base):
    return position.rope_frequencies(x.shape[-1], base)


def rope_in(dtype):
    def rope(x, start, base):
        K = x.shape[-1]
        freq = base ** -(torch.arange(0, K, 2, dtype=dtype) / K)
        return turned(x, (at(x, start).to(dtype)[..., None] * freq)[:, :, None].float())

    return rope


def row_means(x, start, base):
    return turned(
        x, at(x, start.double().mean().round().long()[None])[..., None, None] * theta(x, base)
    )


ROPE = {
    "float32": rope_in(torch.float32),
    "bfloat16": rope_in(torch.bfloat16),
    "positions of the last row": lambda x, start, base: turned(
        x, at(x, start[-1:])[..., None, None] * theta(x, base)
    ),
    "the largest start for all": lambda x, start, base: turned(
        x, at(x, start.max()[None])[..., None, None] * theta(x, base)
    ),
    "the mean start for all": row_means,
    "start - 1": lambda x, start, base: turned(
        x, (at(x, start) - 1)[..., None, None] * theta(x, base)
    ),
    "time runs back": lambda x, start, base: turned(
        x, at(x, start).flip(1)[..., None, None] * theta(x, base)
    ),
    "one angle for all pairs": lambda x, start, base: turned(
        x, at(x, start)[..., None, None] * theta(x, base)[:1]
    ),
    "degrees": lambda x, start, base: turned(
        x, torch.deg2rad(at(x, start)[..., None, None] * theta(x, base))
    ),
    "whole turns": lambda x, start, base: turned(
        x, 2 * torch.pi * at(x, start)[..., None, None] * theta(x, base)
    ),
    "another angle for each head": lambda x, start, base: turned(
        x,
        at(x, start)[..., None, None] * theta(x, base) * torch.arange(1, x.shape[2] + 1)[:, None],
    ),
    "the second half only": lambda x, start, base: torch.cat(
        [
            x.chunk(2, -1)[0],
            turned(x, at(x, start)[..., None, None] * theta(x, base)).chunk(2, -1)[1],
        ],
        -1,
    ),
    "sin and cos changed": lambda x, start, base: turned(
        x, torch.pi / 2 - at(x, start)[..., None, None] * theta(x, base)
    ),
    "waves added": lambda x, start, base: (
        x + turned(torch.ones_like(x), at(x, start)[..., None, None] * theta(x, base))
    ),
    "the base divided by K": lambda x, start, base: turned(
        x, at(x, start)[..., None, None] * theta(x, base / x.shape[-1])
    ),
    "K - 2 in the exponent": lambda x, start, base: turned(
        x,
        at(x, start)[..., None, None]
        * base ** -(torch.arange(0, x.shape[-1], 2).double() / max(x.shape[-1] - 2, 1)),
    ),
}

# work


def counts(each, pairs):
    """An answer from the weights of one token, and the pairs of T tokens."""

    def work(T, D, H, h, F):
        w, p = T * each(D, H, h, F), pairs(T, D, H, h)
        return w, p, (T * w / p)[0]

    return work


def right_each(D, H, h, F):
    return 2 * D**2 + 2 * D**2 * h / H + 3 * D * F


def right_pairs(T, D, H, h):
    return 2 * T**2 * D


WORK = {
    "exact causal pairs": counts(right_each, lambda T, D, H, h: T * (T + 1) * D),
    "the scores alone": counts(right_each, lambda T, D, H, h: T**2 * D),
    "adds counted in the weights": counts(lambda *s: 2 * right_each(*s), right_pairs),
    "adds counted in the pairs": counts(right_each, lambda T, D, H, h: 4 * T**2 * D),
    "an MLP": counts(lambda D, H, h, F: right_each(D, H, h, F) - D * F, right_pairs),
    "a map of the scores": counts(lambda D, H, h, F: right_each(D, H, h, F) + D**2, right_pairs),
    "four D x D": counts(lambda D, H, h, F: 4 * D**2 + 3 * D * F, right_pairs),
    "F counted with D + 1": counts(lambda D, H, h, F: right_each(D + 1, H, h, F), right_pairs),
    "the softmax too": counts(right_each, lambda T, D, H, h: 2 * T**2 * D + T**2 * H),
    "D / H squared": counts(lambda D, H, h, F: 2 * (D / H) ** 2 * (H + h) + 3 * D * F, right_pairs),
    "pairs with h": counts(right_each, lambda T, D, H, h: T**2 * D * (1 + h / H)),
    "T times too few": counts(right_each, lambda T, D, H, h: 2 * T * D),
    "whole tokens": lambda T, D, H, h, F: (
        T * right_each(D, H, h, F),
        right_pairs(T, D, H, h),
        torch.tensor(float(right_each(D, H, h, F) // (2 * D))),
    ),
    "equal, for each T": lambda T, D, H, h, F: (
        T * right_each(D, H, h, F),
        right_pairs(T, D, H, h),
        0 * T + right_each(D, H, h, F) / (2 * D),
    ),
    "equal, as a ratio": lambda T, D, H, h, F: (
        T * right_each(D, H, h, F),
        right_pairs(T, D, H, h),
        (right_each(D, H, h, F) / (2 * T * D))[0],
    ),
    "equal, without the SwiGLU": lambda T, D, H, h, F: (
        T * right_each(D, H, h, F),
        right_pairs(T, D, H, h),
        torch.tensor(D * (1 + h / H)),
    ),
    "k and v swapped for q": counts(
        lambda D, H, h, F: 2 * D**2 + 2 * D**2 * H / h + 3 * D * F, right_pairs
    ),
}

# slots


def masked(q, k, v, seen, *, low=-1e30, after=True, scale=True):
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * (q.shape[-1] ** -0.5 if scale else 1)
    p = scores.masked_fill(~seen, low).softmax(-1)
    return torch.einsum("bhij, bjhv -> bihv", p * seen if after else p, v)


def rule(q_at, k_at):
    return (k_at >= 0) & (k_at <= q_at[:, None])


def sorted_keys_only(q, k, v, q_at, k_at):
    order = k_at.argsort()
    return masked(q, k[:, order], v, rule(q_at, k_at[order]))


def mean_subtracted(q, k, v, q_at, k_at):
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * q.shape[-1] ** -0.5
    e = scores.exp() * rule(q_at, k_at)
    return torch.einsum("bhij, bjhv -> bihv", e / e.sum(-1, keepdim=True).clamp(min=1e-6), v)


def infinity_left(q, k, v, q_at, k_at):
    return masked(q, k, v, rule(q_at, k_at), low=-torch.inf)


def nan_behind(q, k, v, q_at, k_at):
    """Right values; the gradient of a softmax over -∞ lies behind them."""
    seen = rule(q_at, k_at)
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * q.shape[-1] ** -0.5 + bias
    return torch.einsum("bhij, bjhv -> bihv", scores.softmax(-1).nan_to_num(), v)


SLOTS = {
    "places from the end": lambda q, k, v, q_at, k_at: masked(
        q, k, v, torch.ones(len(q_at), len(k_at)).tril(len(k_at) - len(q_at)).bool()
    ),
    "torch's own causal mask": lambda q, k, v, q_at, k_at: F.scaled_dot_product_attention(
        *(u.transpose(1, 2) for u in (q, k, v)), is_causal=True
    ).transpose(1, 2),
    "-inf left": infinity_left,
    "no guard against large scores": mean_subtracted,
    "NaN behind the value": nan_behind,
    "low but not low enough": lambda q, k, v, q_at, k_at: masked(
        q, k, v, rule(q_at, k_at), low=-10.0, after=False
    ),
    "the blind see the first slot": lambda q, k, v, q_at, k_at: masked(
        q,
        k,
        v,
        rule(q_at, k_at) | (~rule(q_at, k_at).any(1, True) & (torch.arange(len(k_at)) == 0)),
    ),
    "keys sorted, values not": sorted_keys_only,
    "slots of the same place": lambda q, k, v, q_at, k_at: masked(q, k, v, k_at == q_at[:, None]),
    "distance from the newest slot": lambda q, k, v, q_at, k_at: masked(
        q, k, v, rule(q_at * 0 + k_at.max(), k_at)
    ),
    "the newest is hidden": lambda q, k, v, q_at, k_at: masked(
        q, k, v, (k_at >= 0) & (k_at < q_at[:, None])
    ),
    "mean of what is seen": lambda q, k, v, q_at, k_at: masked(0 * q, k, v, rule(q_at, k_at)),
    "no scale": lambda q, k, v, q_at, k_at: masked(q, k, v, rule(q_at, k_at), scale=False),
    "all but the empty": lambda q, k, v, q_at, k_at: masked(
        q, k, v, (k_at >= 0)[None].expand(len(q_at), -1)
    ),
    "slots that are used, from 1": lambda q, k, v, q_at, k_at: masked(
        q, k, v, (k_at > 0) & (k_at <= q_at[:, None])
    ),
    "the sum of the seen": lambda q, k, v, q_at, k_at: torch.einsum(
        "ij, bjhv -> bihv", rule(q_at, k_at).float(), v
    ).repeat_interleave(1, dim=2),
}

# mended


def cached(q, k, v, old_k, old_v, start, window, **dial):
    """The decoder with its positions, its mask and what it keeps as dials."""
    S, T = old_k.shape[1], q.shape[1]
    angles = position.rope_frequencies(q.shape[-1])
    here = torch.arange(T) + dial.get("here", lambda start, S: start)(start, S)
    q, k = (position.rotate(x, here, angles, interleaved=dial.get("pairs", False)) for x in (q, k))
    k, v = torch.cat([old_k, k], 1), torch.cat([old_v, v], 1)
    age = S + torch.arange(T)[:, None] - torch.arange(S + T)
    seen = dial.get("seen", lambda age, window: (age >= 0) & (age < window))(age, window)
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * dial.get("scale", q.shape[-1] ** -0.5)
    y = torch.einsum("bhij, bjhv -> bihv", scores.masked_fill(~seen, -1e30).softmax(-1), v)
    keep = dial.get("keep", lambda window: window)(window)
    return y, k[:, -keep:], v[:, -keep:]


def dials(**dial):
    return lambda **inputs: cached(**inputs, **dial)


def keys_not_turned_in_the_cache(q, k, v, old_k, old_v, start, window):
    y, _, v_new = cached(q, k, v, old_k, old_v, start, window)
    return y, torch.cat([old_k, k], 1)[:, -window:], v_new


def only_the_new_in_the_cache(q, k, v, old_k, old_v, start, window):
    y, k_new, v_new = cached(q, k, v, old_k, old_v, start, window)
    T = q.shape[1]
    return y, k_new[:, -T:], v_new[:, -T:]


def old_cache(q, k, v, old_k, old_v, start, window):
    y, _, _ = cached(q, k, v, old_k, old_v, start, window)
    return y, old_k, old_v


def the_past_is_ignored(q, k, v, old_k, old_v, start, window):
    y, _, _ = cached(q, k, v, old_k[:, :0], old_v[:, :0], start, window)
    _, k_new, v_new = cached(q, k, v, old_k, old_v, start, window)
    return y, k_new, v_new


MENDED = {
    "position from the cache": dials(here=lambda start, S: S),
    "position from 0": dials(here=lambda start, S: 0),
    "one too late": dials(here=lambda start, S: start + 1),
    "start and cache": dials(here=lambda start, S: start + S),
    "start less cache": dials(here=lambda start, S: start - S),
    "no window": dials(seen=lambda age, window: age >= 0),
    "a window too long": dials(seen=lambda age, window: (age >= 0) & (age <= window)),
    "a window too short": dials(seen=lambda age, window: (age >= 0) & (age < max(window - 1, 1))),
    "the future": dials(seen=lambda age, window: age < window),
    "both ways": dials(seen=lambda age, window: age.abs() < window),
    "no scale": dials(scale=1.0),
    "neighbours as pairs": dials(pairs=True),
    "one more is kept": dials(keep=lambda window: window + 1),
    "one less is kept": dials(keep=lambda window: max(window - 1, 1)),
    "keys kept as they come": keys_not_turned_in_the_cache,
    "only the new is kept": only_the_new_in_the_cache,
    "the old cache is returned": old_cache,
    "the past is ignored": the_past_is_ignored,
}

WRONG = {
    "shared_read": SHARED_READ,
    "centred": CENTRED,
    "rope": ROPE,
    "work": WORK,
    "slots": SLOTS,
    "mended": MENDED,
}
NUMBERS = {
    "width": (10922.67, 16384, 14336, 12288, 11264, 13653, 12800, 3.167, 19456, 4096),
    "cache_gb": (343.6, 85.9, 86.9, 2.68, 45.0, 703.3, 81.87, 175.8, 87.91e9, 1.099),
    "tokens": (
        430_626,
        13_457,
        107_000,
        215_313,
        131_072,
        53_828,
        861_251,
        8_612_513,
        0.5,
        109_000,
    ),
}
WRONG |= {name: {str(x): x for x in numbers} for name, numbers in NUMBERS.items()}
ASKED = [(name, what) for name, answers in WRONG.items() for what in answers]


@pytest.mark.parametrize("name, what", ASKED, ids=lambda x: x)
def test_an_answer_that_is_nearly_right_does_not_pass(name, what):
    report = report_on(by_name(name), WRONG[name][what])
    assert report.earned == 0 and report.message


def test_the_sizes_are_those_of_the_zoo():
    per_layer = 4 * LLAMA["n_kv_heads"] * LLAMA["d_model"] // LLAMA["n_heads"]
    full, windows = LLAMA["n_layers"] // 4, LLAMA["n_layers"] - LLAMA["n_layers"] // 4
    gb = per_layer * (full * 2**20 + windows * 8192) / 1e9
    assert by_name("cache_gb").reference == pytest.approx(gb, rel=1e-12)
    tokens = LLAMA["total"] / 2 / (per_layer * LLAMA["n_layers"])
    assert by_name("tokens").reference == pytest.approx(tokens, rel=1e-12)


@pytest.mark.parametrize("what", ["copies", "by broadcasting"])
def test_a_copy_of_the_keys_is_refused_by_its_size(what):
    report = report_on(by_name("shared_read"), SHARED_READ[what])
    assert report.kind == "effort" and "a copy of the keys" in report.message


def test_a_gradient_behind_a_right_value_is_seen():
    report = report_on(by_name("slots"), SLOTS["NaN behind the value"])
    assert report.kind == "effort" and "a gradient is not finite" in report.message


@pytest.mark.parametrize("what", ["float32", "the largest start for all", "time runs back"])
def test_only_an_imprecise_angle_is_told_to_be_precise(what):
    said = report_on(by_name("rope"), ROPE[what]).message
    assert ("float32" in said) == (what == "float32"), said


SHAPES = {
    (16, 2, 2, 20, 32, 0.02): "The cache is too large",
    (16, 2, 1, 21, 32, 0.02): "The cache is too large",
    (16, 1, 1, 20, 32, 0.02): "The cache is too large",
    (32, 4, 1, 10, 32, 0.02): "The parameters take more",
    (100_000, 1000, 1, 1, 10**6, 0.02): "The cache is too large",
    (100_000, 50_000, 1, 1, 10**6, 0.02): "The parameters take more",
    (16, 2, 1, 7, 32, 0.02): "The window is too short",
    (16, 3, 1, 10, 32, 0.02): "The shape cannot be built",
    (16, 4, 3, 10, 32, 0.02): "The shape cannot be built",
    (16, 16, 1, 10, 32, 0.02): "The shape cannot be built",
    (16, 2, 1, 0, 32, 0.02): "The shape cannot be built",
    (16, 2, 1, 10.5, 32, 0.02): "The shape cannot be built",
    (16, 2, 1, 10, 32, -0.02): "The shape cannot be built",
    (16, 2, 1, 10, 32, float("nan")): "The shape cannot be built",
    (16, float("nan"), 1, 10, 32, 0.02): "The shape cannot be built",
    ("wide", 2, 1, 10, 32, 0.02): "The shape cannot be built",
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_shape_outside_the_budgets_is_told_which_and_not_trained(shape):
    report = report_on(by_name("small"), lambda names, cache: shape)
    assert report.earned == 0 and SHAPES[shape] in report.message, report
    assert "not trained" in report.rows[-1].detail or "cannot" in report.rows[-1].detail


def test_a_narrow_key_does_not_learn_in_time():
    """The same bytes, spent on a longer window and a key of four channels."""
    report = report_on(by_name("small"), lambda names, cache: (16, 4, 1, cache // 32, 32, 0.02))
    assert report.earned == 0 and "has a key channels enough" in report.message
