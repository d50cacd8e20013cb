"""Two ways out

*Open question · 5 minutes*

In 2017 the transformer dropped the recurrence and kept attention. Linear attention, three years later, kept the recurrence and dropped the tanh. Write three or
four sentences: which of the two failures of this chapter (the gradient through time, the wait) does each of them mend, how, and what does it pay?
"""

POINTS = (
    "Attention links any two tokens in one step, so a gradient need not pass through a product of Jacobians.",
    "Attention does not wait either: all tokens of a layer are computed from the layer below, at once.",
    "It pays with a memory that grows with each token, and with work that grows as the square of the length.",
    "A linear recurrence does not wait because two steps compose to one: it can be merged in any order, or written as one "
    "sum over all pairs.",
    "Its gradient along the state is a product of gates instead of Jacobians with tanh: it lasts if the gates start near 1. "
    "It pays with a state of fixed size, which cannot hold everything.",
)
