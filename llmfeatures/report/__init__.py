# pyarrow has no types
# pyright: reportUnknownVariableType=false
"""A report of historical prompts to look at: one HTML file that needs no network."""

from llmfeatures.report.report import Report, reported

__all__ = ["Report", "reported"]
