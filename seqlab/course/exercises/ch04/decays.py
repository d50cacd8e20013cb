r"""The decays of H heads

*Give each head its own memory span. · 4 minutes · ●○○ · 1 point*

Each head h of RetNet keeps a share γ_h of its state at each token, and forgets the rest:

$$γ_h = 1 - 2^{-5-h}, \qquad h = 0, 1, \dots, H - 1 .$$

Return all of them.
"""

import math

import torch

from seqlab.course.exercise import Case


def decays(n_heads):
    """The decay of each head: γ_h = 1 - 2^(-5-h) for h = 0 .. n_heads - 1, as a tensor (n_heads,)."""
    ### BEGIN SOLUTION
    h = torch.arange(n_heads)
    return 1 - 2.0 ** (-5 - h)
    ### END SOLUTION


WHY = r"""
**Solution.** A head that keeps a share γ per token loses 1 - γ. Here 1 - γ halves from head to head: 1/32, 1/64,
1/128, … So each head remembers about twice as long as the one before it, and eight heads cover half-lives from tens
to thousands of tokens. This is what "multi-scale" means. None of the decays is learned.

*Common mistakes:* Counting h from 1 shifts every span by a factor of 2. Without the minus in the exponent, γ is
negative, and the sign of the state flips at each token. Some code spreads the heads between 1/32 and 1/512 whatever
their number; that is another choice, not the one of the paper.
"""

HINTS = (
    "Each next head forgets half as much per token as the one before it.",
    "What the heads forget per token is 1/32, 1/64, 1/128, …: powers of ½, from the fifth on. γ is the rest.",
    "Make h = torch.arange(n_heads), then raise 2.0 to the power -5 - h, and take it away from 1.",
)


def reference(n_heads):
    return torch.tensor([1 - 1 / (32 * 2**h) for h in range(n_heads)])


def cases(rng):
    return [Case(f"H = {H}", {"n_heads": H}) for H in (1, 3, 4, 8)]


OUTPUTS = ("γ",)

TIME_AXIS = None

ALTERNATIVES = (
    lambda n_heads: -torch.expm1(-math.log(2) * torch.arange(5, 5 + n_heads)),
    lambda n_heads: 1 - torch.full((n_heads,), 0.5).cumprod(0) / 16,
)

MISTAKES = """
-5 - h → -6 - h
    Your heads are counted from 1: the first must get 1 - 2⁻⁵ = 0.96875. Look at where the
    counting starts.
1 - 2.0 ** (-5 - h) → 2.0 ** (-5 - h)
    This is the share that is forgotten, 2^(-5-h): γ is what is kept, so look for the missing 1 -.
-5 - h → 5 + h
    The exponent has lost its minus: a γ below 0 flips the state at each token. Look at 5 + h.
-5 - h → -5 + h
    The sign of h is wrong: later heads must forget more slowly, so look at -5 + h and make it -5 -
    h.
2.0 ** → math.e **
    The base is e, not 2: look for exp where a power of 2 is wanted.
1 - 2.0 ** (-5 - h) → (1 - 2.0 ** (-5 - h)).log()
    This is log γ: the exercise asks for γ itself, so look for a log at the end.
2.0 ** (-5 - h) → torch.linspace(math.log(1 / 32), math.log(1 / 512), n_heads).exp()
    The heads are spread between 1/32 and 1/512 whatever H is, as some code does: in the paper each
    head halves 1 - γ of the one before it, so look at the spacing.
-5 - h → -5 - 0 * h
    All heads have the decay of the first: look for h in the exponent.
2.0 ** → 2 **
    2 and -5 - h are whole numbers in your power, so torch rounds 2⁻⁵ to 0 and γ is 1: write 2.0.
2.0 ** (-5 - h) → 2**-5 - h
    The brackets around your exponent are missing: 2**-5 - h takes h away from 1/32. Write 2.0 **
    (-5 - h).
2.0 ** (-5 - h) → (2**-5 - h)
    The brackets stand around your whole power, (2**-5 - h): they belong around the exponent, 2.0 **
    (-5 - h).
-5 - h → -5 - h.flip(0)
    Your heads are in reverse order: head 0 forgets fastest, with γ = 1 - 2⁻⁵.
"""
