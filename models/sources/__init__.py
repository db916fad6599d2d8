"""Sources of networks: `zoo:`, `torchvision:`, `timm:`, `hf:` and those of other packages; else the user's own code."""
