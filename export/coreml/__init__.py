"""Core ML: a network as an ML Program, its weights in Core ML's own forms, read back and run without Core ML."""
