"""ExecuTorch: .pte files for the XNNPACK and the Core ML delegate, and the weights read back out of them."""
