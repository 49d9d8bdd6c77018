"""Formats of eval datasets: each module writes historical prompts in one of them."""
