r"""Count the work of a layer

*Find from which length on attention's pairs are most of the work. · 15 minutes · ●●○ · 2 points*

"Attention is quadratic", but a layer also has its matrices, whose work grows with T only. Count the multiplications that one layer makes for a text of T tokens, in matrix products alone (no norms, softmax, scale or rotation):

- **the weights**: the maps of q, k, v and the output, with H query heads and h key heads of width D / H, and a SwiGLU of width F, three matrices;
- **the pairs**: the scores of all heads, and their products with the values. The plain form computes all T × T pairs and then masks, so count all.

Then give the length T at which both are equal. It need not be a whole number.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from seqlab.course.exercise import Case


def work(T, D, H, h, F):
    """Multiplications of a layer for texts of T tokens. T (n,), float64: several lengths. D, H, h, F: whole numbers.

    Returns (weights, pairs, equal): weights (n,), pairs (n,), and the one length at which they are equal, a number.
    """
    ### BEGIN SOLUTION
    each = 2 * D**2 + 2 * D**2 * h / H + 3 * D * F  # for one token
    return T * each, 2 * T**2 * D, torch.tensor(each / (2 * D)).double()
    ### END SOLUTION


WHY = r"""
**Solution.** Each weight multiplies once for each token: $2 D^2$ for q and the output, $2 D^2 h / H$ for k and v, $3 D F$ for the SwiGLU. A head's scores take $T^2 \cdot D/H$ multiplications, its values as many; with H heads
that is $2\,T^2 D$. The number of heads cancels, and so does h: shared keys make the cache smaller, not the scores.

Both are equal at $T = (2 D^2 + 2 D^2 h / H + 3 D F) / (2 D)$. For Llama 3.1 70B, with D = 8,192, 64 and 8 heads and F = 28,672, that is 52,224 tokens. Below it, the quadratic part is the smaller one. That is why the square did not hurt for years, why it hurts now, and why a kernel that makes all matrix products
faster is worth more for short texts than another attention.

*Common mistakes:* only the scores, or only half of the pairs; T² D for each head; an addition counted as a multiplication; h in the pairs.
"""

HINTS = (
    "How often does one weight multiply for a text of T tokens? How many products does one score need?",
    "Weights: T (2 D² + 2 D² h/H + 3 D F). Pairs of one head: T² D/H for the scores and as many for the values.",
    "each = 2 * D**2 + 2 * D**2 * h / H + 3 * D * F; return T * each, 2 * T**2 * D, torch.tensor(each / (2 * D)).",
)


def _counted(form):
    """The multiplications of matrix products inside `form()`, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        form()
    return counter.get_total_flops() / 2


def reference(T, D, H, h, F):
    """By doing it, and letting PyTorch count."""
    K, weights, pairs = D // H, [], []
    shapes = [(D, D), (D, h * K), (D, h * K), (D, D), (D, F), (D, F), (F, D)]

    def maps(n):
        for a, b in shapes:
            torch.zeros(n, a) @ torch.zeros(a, b)

    def attention(n):
        for _ in range(H):
            scores = torch.zeros(n, K) @ torch.zeros(K, n)
            scores @ torch.zeros(n, K)

    for n in T.long().tolist():
        weights.append(_counted(lambda n=n: maps(n)))
        pairs.append(_counted(lambda n=n: attention(n)))
    weights, pairs = (torch.tensor(u, dtype=torch.float64) for u in (weights, pairs))
    return weights, pairs, (T * weights / pairs)[0]


def cases(rng):
    def case(name, T, D, H, h, F):
        inputs = {"T": torch.tensor(T).double(), "D": D, "H": H, "h": h, "F": F}
        return Case(name, inputs)

    return [
        case("one token, one head", [1.0], 4, 1, 1, 6),
        case("a key head for each", [3.0, 8.0], 12, 3, 3, 20),
        case("four heads share a key head", [5.0, 9.0], 16, 4, 1, 24),
        case("eight heads, two key heads", [7.0, 16.0, 33.0], 32, 8, 2, 50),
        case("a narrow SwiGLU", [2.0, 40.0], 24, 6, 3, 5),
    ]


OUTPUTS = ("weights", "pairs", "equal")

TIME_AXIS = None


def _matrix_by_matrix(T, D, H, h, F):
    K = D // H
    sizes = [D * H * K, D * h * K, D * h * K, H * K * D, D * F, D * F, F * D]
    weights = sum(T * size for size in sizes)
    pairs = sum(T * T * K + T * T * K for _ in range(H))
    return weights, pairs, (T * weights / pairs).mean()


ALTERNATIVES = (
    _matrix_by_matrix,
    lambda T, D, H, h, F: (
        T * D * (2 * D + 2 * h * (D // H) + 3 * F),
        T.square() * D * 2.0,
        D + h * (D // H) + 1.5 * F,
    ),
    lambda T, D, H, h, F: (
        torch.einsum(
            "n, -> n", T, torch.tensor(D * (2 * D * (1 + h / H) + 3 * F)).double()
        ),
        2 * D * T**2,
        torch.tensor(D * (1 + h / H) + 3 * F / 2),
    ),
)

MISTAKES = """
2 * T**2 * D → T**2 * D ; each / (2 * D) → each / D
    Half of the pairs is counted: either the masked ones are left out, and the plain form computes them too, or the scores are counted without the values.
2 * T**2 * D → T * (T + 1) * D ; each / (2 * D) → each / D - 1
    Only the pairs with j ≤ i are counted: the plain form computes all T² of them, and then masks.
2 * T**2 * D → 2 * T**2 * D * H ; each / (2 * D) → each / (2 * D * H)
    The pairs are H times too many: each head has D / H channels, so H heads together have D.
2 * T**2 * D → 2 * T**2 * (D / H) ; each / (2 * D) → each / (2 * D / H)
    The pairs of one head are counted: there are H.
2 * T**2 * D → 2 * T**2 * D * h / H ; each / (2 * D) → each / (2 * D * h / H)
    The pairs are counted for h heads: keys are shared, but each of the H query heads has scores of its own.
2 * T**2 * D → 2 * T**2 ; each / (2 * D) → each / 2
    A pair is counted as one multiplication: a score is a dot product, of D / H channels in each head.
2 * T**2 * D → 2 * T * D
    The pairs are counted for one reading token: there are T of them.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → 4 * D**2 + 3 * D * F
    k and v are counted with all H heads: they have h.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → 2 * D**2 + 2 * D**2 / H + 3 * D * F
    One key head is counted: there are h.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → 2 * D**2 + D**2 * h / H + 3 * D * F
    One of k and v is missing: each has a map.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → D**2 + 2 * D**2 * h / H + 3 * D * F
    One D × D map is missing: q has one, and so has the output.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → 2 * D**2 + 2 * D**2 * h / H + 2 * D * F
    Two matrices of the SwiGLU are counted: it has three.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → 2 * D**2 + 2 * D**2 * h / H
    The SwiGLU is missing among the weights.
return T * each, 2 * T**2 * D, → return 2 * T * each, 4 * T**2 * D,
    Each multiplication is counted with its addition: count multiplications alone.
2 * D**2 + 2 * D**2 * h / H + 3 * D * F → 3 * D * F
    The maps of q, k, v and the output are missing among the weights.
2 * T**2 * D → T**2 * D
    Only half of the pairs is returned, though the last number counts all: scores and values take T² D each.
2 * T**2 * D → 4 * T**2 * D ; each / (2 * D) → each / (4 * D)
    Each multiplication of the pairs is counted with its addition, those of the weights are not: count multiplications alone.
2 * D**2 * h / H → 2 * D**2 / h
    The maps of k and v are divided by h: h of H heads are left, a share of h / H.
return T * each, → return 0 * T + each,
    The weights are counted for one token: each of the T tokens goes through them.
each / (2 * D) → 2 * D / each
    The last number is upside down: T each = 2 T² D gives T = each / (2 D).
each / (2 * D) → (each / (2 * D)) ** 0.5
    A root is taken: T each = 2 T² D has one T on both sides to cancel.
"""
