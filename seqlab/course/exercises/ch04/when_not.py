"""When not to forget

*Open question · 5 minutes*

RetNet's decays are fixed before training: they depend neither on the data nor on the token. Describe a task for which that is
a good choice and one for which it is a bad one, and say for each what the memory would do.
"""

POINTS = (
    "A good one: what is recent counts most (the next character, a running value, an overwritten variable); old pairs leave "
    "room for new ones.",
    "A bad one: a fact at the beginning is needed at the end, and how far away that is differs from text to text.",
    "In the bad one the fact fades by γ for every token between, whether those tokens matter or not.",
    "Heads with long half-lives keep it, but they also keep everything else: no head can hold one pair and drop its "
    "neighbour.",
    "What would help: a decay that each token decides, or a write that replaces the old value.",
)
