"""Adapters of `llmfeatures.ports.OfflineStore`: DuckDB over Parquet files and queries."""
