"""The contract of an online store, part by part; `llmfeatures.testing.online` puts them together."""
