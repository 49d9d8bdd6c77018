"""``python -m llmfeatures`` is ``llmfeatures``."""

from llmfeatures.cli import main

main()
