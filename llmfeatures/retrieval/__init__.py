"""Document stores: the embedded one, vector databases, and any Python function. Each loads its own client only."""
