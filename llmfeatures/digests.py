# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""SHA-256 of columns of texts, by DuckDB: it hashes without the interpreter, so another thread can go on meanwhile."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class Digester:
    """Hashes columns; for one thread at a time."""

    def __init__(self) -> None:
        import duckdb

        self._connection = duckdb.connect(config={"threads": 1})

    def sha256(self, texts: Any, characters: int = 64) -> Any:
        """The first ``characters`` of the lower-case hexadecimal SHA-256 of each text's UTF-8 bytes; null of null."""
        self._connection.register("texts", pa.table({"text": texts}))
        try:
            query = f"SELECT left(sha256(text), {characters:d}) AS digest FROM texts"
            return self._connection.sql(query).to_arrow_table().column(0).cast(pa.string()).combine_chunks()
        finally:
            self._connection.unregister("texts")
