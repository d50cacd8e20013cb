"""The mathematics as functions, an equation a file. Nothing here imports a module of the course
outside this folder.

`recurrence` is the equation of the course; `two_sided`, `dplr` and `rank_one` are its relatives
that do not fit it. `scan`, `convolution` and `discretize` belong to state spaces, `attention`,
`attention_tiled`, `masks` and `position` to softmax attention, `exponential_gates` to xLSTM and
`shift` to RWKV. `inputs` checks what the others are given.
"""
