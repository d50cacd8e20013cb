r"""How many modes of LRU remember?

*Compute what share of a ring reaches a half-life. · 6 minutes · ●○○ · 1 point*

LRU draws its gates λ evenly *by area* from a ring in the complex plane, $r_{min} \le |λ| \le r_{max}$. With
$r_{min} = 0.9$ and $r_{max} = 0.999$: what share of the modes, on average, has a half-life of 100 tokens or more? Give a number between 0
and 1, right to within 0.2 % of itself (four digits will do).

(A mode keeps $|λ|^n$ after n tokens.)
"""

### BEGIN SOLUTION
needed = 0.5 ** (1 / 100)  # |λ| of a half-life of 100 tokens
share = (0.999**2 - needed**2) / (0.999**2 - 0.9**2)
### END SOLUTION

WHY = r"""
**Solution.** A half-life of 100 means $|λ|^{100} = ½$, so $|λ| = 2^{-1/100} ≈ 0.9931$. Half-lives of 100 or more fill the ring from there to
0.999. Areas go with the *square* of the radius: $(0.999^2 - 0.9931^2) / (0.999^2 - 0.9^2)$, about 6.3 %.

So even on this narrow ring about one mode in sixteen remembers for 100 tokens. On the whole disc, the default, it would be about 1.4 %.

*Common mistakes:* treating the radius as uniform gives 6.0 %; the square of λ is uniform, not λ. The time constant 1/e is not the half-life.
"""

HINTS = (
    "Which |λ| has a half-life of exactly 100 tokens? Larger ones remember longer.",
    "|λ|^100 = ½. And the area between two radii is proportional to the difference of their squares.",
    "needed = 0.5 ** (1 / 100); share = (0.999**2 - needed**2) / (0.999**2 - 0.9**2).",
)

reference = (0.999**2 - 0.5 ** (2 / 100)) / (0.999**2 - 0.9**2)

TOLERANCE = 0.002

OUTPUTS = ("share",)

ALTERNATIVES = (0.06260, (0.998001 - 2**-0.02) / 0.188001)

MISTAKES = """
(0.999**2 - needed**2) / (0.999**2 - 0.9**2) → (0.999 - needed) / (0.999 - 0.9)
    The radius is taken as uniform. Areas go with its square: compare differences of squares.
0.5 ** (1 / 100) → math.exp(-1 / 100)
    This uses the time constant, where 1/e is left. At a half-life ½ is left.
(0.999**2 - needed**2) → (needed**2 - 0.9**2)
    This is the share of the modes that forget sooner: the others, from needed to 0.999, were asked for.
(0.999**2 - 0.9**2) → 0.999**2
    This divides by the area of the whole disc: the modes are drawn from the ring, from 0.9 on.
(0.999**2 - needed**2) / (0.999**2 - 0.9**2) → needed
    This is the |λ| of a half-life of 100 tokens: the share of modes at or above it was asked for.
0.999**2 - needed**2 → 1 - needed**2
    The ring ends at 0.999, not at 1.
0.5 ** (1 / 100) → 0.5 ** (2 / 100)
    The half-life is counted for |λ|²: a mode keeps |λ|^n after n tokens.
(0.999**2 - needed**2) / (0.999**2 - 0.9**2) → 100 * (0.999**2 - needed**2) / (0.999**2 - 0.9**2)
    This is in per cent: a number between 0 and 1 was asked for.
"""
