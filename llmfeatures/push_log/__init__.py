"""Pushed rows in a local folder: segments that are appended to, and the Parquet that they become."""
