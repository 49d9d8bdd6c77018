"""The command line: one short module per verb. Nothing heavy loads before a verb needs it."""

from __future__ import annotations


def main() -> None:
    """Run the command line that the process was started with, and end the process with its exit code."""
    import sys

    try:
        from llmfeatures.cli.asked import quick

        code = quick(sys.argv[1:], anew=True)
        if code is None:
            from llmfeatures.cli.app import run

            code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while it was still loading
        code = 130
    sys.exit(code)
