"""Prompt tests: the cases of ``NAME.cases.yaml``, built from given values and compared with what they expect."""
