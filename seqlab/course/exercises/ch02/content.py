r"""Find a row by its content

*Write content addressing that no sharpness and no empty row can break. · 10 minutes · ●●○ · 2 points*

A head of a Neural Turing Machine compares its key with each row by the cosine, sharpens by β, takes a softmax, and (if it neither interpolates nor shifts)
sharpens once more by γ:

$$p_n = \mathrm{softmax}_n\; \beta \cos(k, M_n) \qquad w_n = \frac{p_n^{\gamma}}{\sum_m p_m^{\gamma}}$$

Write `content(memory, k, beta, gamma)` for a batch and several heads. A row of zeros, or a key of zeros, has the cosine 0. β and γ may be in the hundreds: the
weights must then still add up to 1, in float32.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch02.shared import _rand, _randn
from seqlab.course.exercises.vocabulary import first_head


def content(memory, k, beta, gamma):
    """The weights of each head. memory (B, N, M), k (B, H, M), beta and gamma (B, H). Returns w (B, H, N)."""
    ### BEGIN SOLUTION
    rows = memory / memory.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    keys = k / k.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosine = torch.einsum("bhm, bnm -> bhn", keys, rows)
    return ((beta * gamma)[..., None] * cosine).softmax(-1)
    ### END SOLUTION


WHY = r"""
**Solution.** A power of a softmax, normalised again, is a softmax with the exponents multiplied: $p_n^\gamma \propto e^{\gamma \beta \cos}$, because the
sum in p is the same for all n and cancels. So β and γ are one number here, and `softmax` takes care of large exponents: it subtracts the largest first.

If a head shifts between the two, $p$ changes and the two sharpenings no longer merge. That is why the machine has both.

*Common mistakes:* $p^\gamma$ as it is written underflows: with 20 rows and γ = 300 all powers can be 0 in float32, and 0/0 is NaN. A cosine without a floor divides 0 by 0 at the
machine's own start, where all rows are (nearly) 0.
"""

HINTS = (
    "Two dangers: a length of 0 in the cosine, and a power that makes all weights 0. What is the power of a softmax?",
    "p^γ, normalised, is softmax(γ β cos): the sums cancel.",
    "rows and keys divided by norm(...).clamp(min=1e-12); cosine = einsum; ((beta * gamma)[..., None] * cosine).softmax(-1).",
)


def reference(memory, k, beta, gamma):
    """The formula as it is written, in float64, one head at a time, with p relative to the largest."""
    memory, k, beta, gamma = (u.double() for u in (memory, k, beta, gamma))
    w = torch.zeros(*k.shape[:2], memory.shape[1]).double()
    for b in range(len(k)):
        for h in range(k.shape[1]):
            lengths = memory[b].square().sum(-1).sqrt() * k[b, h].square().sum().sqrt()
            dots = (memory[b] * k[b, h]).sum(-1)
            cosine = torch.where(lengths > 0, dots / lengths.where(lengths > 0, 1), 0)
            p = (beta[b, h] * (cosine - cosine.max())).exp()
            powers = p ** gamma[b, h]
            w[b, h] = powers / powers.sum()
    return w.float()


def cases(rng):
    def case(name, B, N, M, H, beta=(1.0, 6.0), gamma=(1.0, 4.0), memory=1.0, key=1.0):
        return Case(
            name,
            {
                "memory": memory * _randn(rng, B, N, M),
                "k": key * _randn(rng, B, H, M),
                "beta": _rand(rng, B, H, low=beta[0], high=beta[1]),
                "gamma": _rand(rng, B, H, low=gamma[0], high=gamma[1]),
            },
        )

    empty = case("some empty rows", 2, 6, 3, 2)
    empty.inputs["memory"][:, ::2] = 0
    return [
        case("one head, 3 rows", 1, 3, 2, 1),
        case("N ≠ M", 2, 7, 3, 2),
        case("N = M = H", 2, 3, 3, 3),
        case("γ = 1", 2, 5, 4, 2, gamma=(1.0, 1.0)),
        empty,
        case("an empty memory", 1, 5, 3, 2, memory=0.0),
        case("a key of zeros", 1, 4, 3, 2, key=0.0),
        case("long rows, short keys", 2, 5, 3, 2, memory=50.0, key=0.02),
        case(
            "γ in the hundreds, 20 rows",
            1,
            20,
            4,
            2,
            beta=(0.0, 0.2),
            gamma=(200.0, 400.0),
        ),
        case("β and γ large", 1, 6, 4, 2, beta=(100.0, 300.0), gamma=(5.0, 9.0)),
    ]


TOLERANCE = 1e-3

OUTPUTS = ("w",)

TIME_AXIS = None


def _normalised(memory, k, beta, gamma):
    normal = torch.nn.functional.normalize
    scores = (
        normal(k, dim=-1) @ normal(memory, dim=-1).mT * (beta * gamma).unsqueeze(-1)
    )
    scores = scores - scores.amax(-1, keepdim=True)
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def _by_logarithms(memory, k, beta, gamma):
    cosine = torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)
    return ((beta[..., None] * cosine).log_softmax(-1) * gamma[..., None]).softmax(-1)


def _by_head(memory, k, beta, gamma):
    ws = []
    for h in range(k.shape[1]):
        dots = (memory * k[:, h, None]).sum(-1)
        size = memory.square().sum(-1) * k[:, h].square().sum(-1, keepdim=True)
        cosine = torch.where(size > 0, dots * size.where(size > 0, 1).rsqrt(), 0)
        ws.append(torch.softmax(cosine * beta[:, h, None] * gamma[:, h, None], 1))
    return torch.stack(ws, 1)


ALTERNATIVES = (_normalised, _by_logarithms, _by_head)

MISTAKES = """
keys = k / k.norm(dim=-1, keepdim=True).clamp(min=1e-12) → keys = k
    The key is not scaled to length 1: this is not the cosine, and a long key sharpens by itself.
rows = memory / memory.norm(dim=-1, keepdim=True).clamp(min=1e-12) → rows = memory
    The rows are not scaled to length 1: a long row attracts the head whatever it says.
rows = memory / memory.norm(dim=-1, keepdim=True).clamp(min=1e-12) → rows = memory ; keys = k / k.norm(dim=-1, keepdim=True).clamp(min=1e-12) → keys = k
    These are plain dot products: the text asks for the cosine.
(beta * gamma) → beta
    γ is missing: the weights are not sharpened a second time.
(beta * gamma) → gamma
    β is missing: the cosines go into the softmax as they are.
(beta * gamma) → (beta + gamma)
    β and γ are added: a power multiplies the exponents.
(beta * gamma)[..., None] * cosine).softmax(-1) → (beta * gamma)[..., None] * cosine).softmax(1)
    The softmax runs over the heads: each head has weights over the rows.
(beta * gamma)[..., None] * cosine).softmax(-1) → (beta * gamma)[..., None] * cosine).exp()
    The weights are not divided by their sum: they must add up to 1.
* → p = (beta[..., None] * torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)).softmax(-1); return p ** gamma[..., None]
    The powers are not divided by their sum: the weights must add up to 1.
* → p = (beta[..., None] * torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)).softmax(-1) ** gamma[..., None]; return p / p.sum(-1, keepdim=True)
    This is the formula as it is written. With γ in the hundreds all powers can round to 0 in float32, and 0/0 is NaN: work with the exponents instead.
* → p = (beta[..., None] * torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)).softmax(-1) ** gamma[..., None]; return p / (p.sum(-1, keepdim=True) + 1e-8)
    A small number keeps the division finite, but with γ in the hundreds all powers round to 0 in float32, and the weights no longer add up to 1: work with the exponents instead.
* → p = ((beta * gamma)[..., None] * torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)).exp(); return p / p.sum(-1, keepdim=True)
    The exponential overflows where β γ is large, and inf/inf is NaN: subtract the largest exponent first, as softmax does.
rows = memory / memory.norm(dim=-1, keepdim=True).clamp(min=1e-12) → rows = memory / memory.norm(dim=-1, keepdim=True) ; keys = k / k.norm(dim=-1, keepdim=True).clamp(min=1e-12) → keys = k / k.norm(dim=-1, keepdim=True)
    A row or a key of zeros is divided by its length, 0: its cosine is 0, so give the length a floor.
clamp(min=1e-12) ⏎ keys → clamp(min=1.0) ⏎ keys
    Rows shorter than 1 are not scaled up: the floor under the length is too high.
"""

ALSO = (first_head("beta", 1), first_head("gamma", 1))
