"""dwindle: shrink a trained network to a budget, ship it packed, prove and measure what ships."""

import os

__version__ = "0.1.0"

# onnxruntime 1.32 reports usage, model names among it, unless told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
