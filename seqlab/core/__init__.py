"""The mathematics as functions, one equation a file. Nothing here imports the rest of the course.

`recurrence` is the equation of the course. `two_sided`, `dplr` and `rank_one` are relatives that
it does not cover; `least_squares` and `log_linear` keep more than one table, and `path` puts the
delta rule's transitions into attention's scores. `scan`, `convolution` and `discretize` serve state
space models; `attention`, `attention_tiled`, `masks` and `position` serve softmax attention;
`exponential_gates` serves xLSTM and `shift` serves RWKV. `inputs` checks what the others are given.

Axes have one letter each: B T D for batch, time and model width; H K V for heads, key width and
value width; N for the modes of a state space; C for the length of a chunk. Time comes second:
q and k are (B, T, H, K), v is (B, T, H, V), and a state S is (B, H, V, K).
"""
