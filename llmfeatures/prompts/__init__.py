"""Prompt files: their header, their Jinja environment, and the text that comes out."""
