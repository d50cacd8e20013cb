"""See kernels without a GPU: run and watch them on CPU, compile them for GPUs, predict times."""
