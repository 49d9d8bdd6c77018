"""The checker of prompt files: types every expression of every branch against the registry, without rendering."""
