"""Conformance suites: what an adapter must do, as tests to subclass. They need pytest."""
