"""LiteRT: .tflite files whose zeros XNNPACK skips."""
