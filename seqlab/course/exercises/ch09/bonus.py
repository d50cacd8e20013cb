r"""How large must the bonus be?

*Compute the bonus that gives the newest token half of a read. · 6 minutes · ●●○ · 1 point*

A channel of RWKV-4 has read a very long text in which every key is 0. Its half-life is 10 tokens. Which bonus u gives the newest token exactly one half of the read's weight?
(At the read, the token before the newest has not decayed yet: its weight is $e^{0}$.)
"""

import math

### BEGIN SOLUTION
factor = 0.5 ** (1 / 10)
past = 1 / (1 - factor)
u = math.log(past)
### END SOLUTION

WHY = r"""
**Solution.** The older tokens weigh $1 + a + a^2 + … = 1 / (1 - a)$ with $a = 2^{-1/10}$, which is about 14.9. The newest has $e^{u}$. Equal shares: $u = -\ln(1 - a) ≈ 2.70$. The start of RWKV-4 has u near
$\ln 0.3 ≈ -1.2$: there the newest token counts *less* than the one before it, since that one is what predicts.

*Common mistakes:* letting the sum begin with a (the token before has not decayed); half of the sum's weight in place of half of the read.
"""

HINTS = (
    "What do all older tokens weigh together? It is a geometric sum.",
    "1 + a + a² + … = 1 / (1 - a), with a = 2^(-1/10). The newest token weighs e^u.",
    "u = math.log(1 / (1 - 0.5 ** 0.1)).",
)

reference = 2.7035551918624043

TOLERANCE = 1e-6

OUTPUTS = ("u",)

ALTERNATIVES = (-math.log(1 - 2 ** (-1 / 10)), 2.7035552)

MISTAKES = """
past = 1 / (1 - factor) → past = factor / (1 - factor)
    Here the token before the newest has decayed once: it is read before its decay, with weight 1.
u = math.log(past) → u = past
    This is the weight e^u: the bonus is its logarithm.
u = math.log(past) → u = math.log(past / 2)
    With this the newest token has half as much as all others together, a third of the read.
u = math.log(past) → u = -math.log(past)
    The sign is wrong: all older tokens together weigh more than 1.
factor = 0.5 ** (1 / 10) → factor = math.exp(-1 / 10)
    This factor leaves 1/e after 10 tokens, not one half.
u = math.log(past) → u = math.log10(past)
    This is a logarithm to base 10: e^u needs the natural one.
"""
