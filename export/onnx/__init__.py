"""ONNX: a graph of stock operators that unpacks its own weights when a session is created."""
