r"""What a mini-batch costs

*Count multiplications of both forms. · 8 minutes · ●●○ · 1 point*

Count the multiplications of matrix products and outer products, with $K = 96$, $V = 48$ and mini-batches of $b$ tokens. A product of (n, m) and (m, p) takes n · m · p of them, also where a triangle is thrown away; products with the step size are not counted.

The primal form takes, for each token, $W_s k$, the outer product $g k^\top$, and $W_t q$. The dual form takes, for each mini-batch, $K W_s^\top$, $Q W_s^\top$, $Q K^\top$, its triangle times $G$, and $G^\top K$.

At which `b` does the dual form take exactly **twice** as many multiplications as the primal?
"""

### BEGIN SOLUTION
K, V = 96, 48
primal_per_token = 3 * K * V
extra = K + V  # per pair of tokens: a dot product of K, and a row of V
b = primal_per_token / extra
### END SOLUTION

WHY = r"""
**Solution.** Primal: $3 K V$ a token, so $3 b K V$ for a mini-batch. Dual: $b K V$ for each of $K W^\top$, $Q W^\top$ and $G^\top K$, so the same $3 b K V$; and $b^2 K + b^2 V$ for the triangle. The two are equal but for the triangle: the dual form *always* multiplies more. It takes twice as much where $b^2 (K + V) = 3 b K V$, so at $b = 3 K V / (K + V) = 96$.

It is faster all the same, because it does a few large products where the primal form does many small ones. With $b = 16$ the triangle adds a sixth.

*Common mistakes:* a triangle counted by half (the product computes all of it); only one of the two products with $b^2$.
"""

HINTS = (
    "Write both counts for one mini-batch as a formula in b, K and V.",
    "Primal 3 b K V; dual 3 b K V + b² K + b² V. When is the second part as large as the first?",
    "b = 3 K V / (K + V) with K = 96 and V = 48.",
)

reference = 96.0

TOLERANCE = 1e-6

OUTPUTS = ("b",)

ALTERNATIVES = (96, 3 * 96 * 48 / 144)

MISTAKES = """
extra = K + V  # per pair of tokens: a dot product of K, and a row of V → extra = K
    The triangle times G is missing: only the dot products of Q Kᵀ are counted.
extra = K + V  # per pair of tokens: a dot product of K, and a row of V → extra = V
    The dot products of Q Kᵀ are missing: only the triangle times G is counted.
extra = K + V  # per pair of tokens: a dot product of K, and a row of V → extra = (K + V) / 2
    The triangle is counted by half (the products compute all of it), or three times as many were asked for here: twice means that the extra part equals 3 b K V.
primal_per_token = 3 * K * V → primal_per_token = 2 * K * V
    One of the three products of a token is missing: W_s k, g kᵀ and W_t q.
primal_per_token = 3 * K * V → primal_per_token = K * V
    Only one product of the token is counted: there are W_s k, g kᵀ and W_t q.
"""
