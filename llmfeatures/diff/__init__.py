"""Two versions of a prompt over the same historical rows: how many prompts change, how, and what it costs."""
