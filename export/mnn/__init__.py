"""MNN: one file per network, in Alibaba's format, whose runtime computes sparse weights by sparse kernels."""
