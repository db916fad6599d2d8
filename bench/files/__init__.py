"""What is in a model file of any origin: its bytes, one by one, its weights, its operators and its interface."""
