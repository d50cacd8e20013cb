"""Would you give them up?

*Open question · 5 minutes*

Mamba-2 gave up Mamba's gates for each channel and number of the state, and took a state eight times as large. Write three or four sentences: when
is this a good bargain, when a bad one, and what would you measure to decide?
"""

POINTS = (
    "Why it could: one gate for a head leaves the sum over N, so all pairs of a chunk are one matrix product.",
    "Good: tasks that must keep many things apart, since a state of N columns holds about N keys; and hardware with matrix units.",
    "Bad: tasks that must forget some directions and keep others in the same head; there a head can only fade everything.",
    "Part of the loss comes back: heads differ, so a layer with many small heads has many gates.",
    "To measure: quality at equal time or equal memory, not at equal N; several seeds; recall and state tracking apart from perplexity.",
)
