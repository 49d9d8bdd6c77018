"""Parity: the prompt that is built online and the prompt that history rebuilds are the same bytes."""
