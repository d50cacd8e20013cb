"""A gate that the kernels do not know

*Open question · 6 minutes*

A colleague proposes a new layer, S_t = diag(b_t) S_{t-1} diag(a_t) + v_t k_tᵀ, with a gate for each row and each column of the state, both chosen by the token (DFW of chapter 05 has such a gate). Write three or four sentences: which parts of the page's kernels change, what stays, and what would you count before you write a line?
"""

POINTS = (
    "Walk: the write decays on both sides, f on the columns in k and another on the rows in v; the state is multiplied by the product of a row and a column decay. Nothing else changes, and it is still one product of tiles.",
    "Read of the state: q takes the decays of the columns, the result y those of the rows. Two elementwise products.",
    "Pairs: the score depends on the column channel and on the row channel of the output, so it is no matrix that serves all of V. Between blocks the border trick works for both (k and q on one side, v and y on the other), inside a block there is a sum over j for each pair of channels.",
    "So small blocks are cheap and the diagonal is expensive: count its multiplications, B² K V a block in the worst way, against the recurrent form, which needs K V a token. For B = 16 the recurrent form inside a block may be better.",
    "Count the bytes too: two gates of K and V numbers a token are as much as k and v again.",
)
