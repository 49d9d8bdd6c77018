"""Embedders: a model in this process, an endpoint, and any Python function. Each loads its own library only."""
