"""Why tie the write to the gate?

*Open question · 5 minutes*

HGRN-2, Gated RFA and GSA write with the share 1 - a that they forget; gated retention, GLA and mLSTM write as strongly as they like. Write three or four sentences: what does the tie
guarantee, what does it forbid, and which of the two would you choose for a text in which one token in a hundred matters?
"""

POINTS = (
    "With the tie the state is a weighted mean of what was written: its size is bounded by the largest write, for any length.",
    "A token that writes nothing forgets nothing, and the other way round: one dial instead of two, and one matrix less.",
    "The tie forbids adding without forgetting: two facts under different keys of one column cannot both be written with weight 1.",
    "It also forbids forgetting without writing, as 'forget everything' in the project asks.",
    "For rare tokens the tie fits: filler with a = 1 writes nothing by itself. An untied gate must learn k near 0 for filler as well.",
)
