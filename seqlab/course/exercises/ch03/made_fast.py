"""“Softmax attention, only faster”

*Open question · 5 minutes*

A colleague has heard that linear attention is softmax attention made fast. Write three or four sentences: what is right about
that, what is lost, and when would you notice the loss?
"""

POINTS = (
    "Right: both read a weighted mean of the values; the weight is φ(q)·φ(k) in place of exp(q·k), and the bracket can "
    "be moved.",
    "Work and memory: T steps with a state of K × V numbers, in place of T² weights and a cache that grows with T.",
    "Lost: the cache keeps every pair apart. The state adds them up, and more pairs than K smear into each other.",
    "Also lost, or changed: exp can single out one key; the features of this chapter cannot make weights as sharp.",
    "One notices it where something must be looked up exactly in a long text, not where a summary is enough.",
)
