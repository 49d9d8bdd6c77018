"""The prompts, features and documents of a project over the Model Context Protocol; ``llmfeatures mcp`` runs it."""
