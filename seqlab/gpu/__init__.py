"""See kernels without a GPU: run them on CPU and watch (trace, sanitize), compile them for GPUs,
predict their time.
"""
