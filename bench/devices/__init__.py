"""What files are measured on besides this machine itself: ARM64 by emulation, a browser, a GPU, boards and phones."""
