"""One in-memory DuckDB database per store and process, set up so that results are the same on every machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import duckdb

from llmfeatures.errors import ConfigError
from llmfeatures.offline import sql
from llmfeatures.offline.sources import run


class Database:
    """A database and the private folder in which it spills; the folder goes when the database does."""

    def __init__(self, root: Path, memory_limit: str, threads: int | None, temp_directory: Path | None) -> None:
        self.pid = os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix="llmfeatures-", dir=temp_directory))
        self._remove = weakref.finalize(self, _remove, self.folder, self.pid)
        self.con = duckdb.connect(":memory:")
        settings = {
            "memory_limit": sql.literal(memory_limit),
            "temp_directory": sql.literal(str(self.folder / "spilled")),
            "file_search_path": sql.literal(str(self._search_path(root))),
            "TimeZone": "'UTC'",
            "preserve_insertion_order": "false",  # every result that has an order asks for it
            "python_enable_replacements": "false",  # a query's table is never a Python variable
            "enable_external_file_cache": "false",  # DuckDB 1.5 gives old rows of a file written again
            "asof_loop_join_threshold": "0",  # the loop join takes minutes where the sorted one takes seconds
            # memory of a dropped table goes back to the system, not only to the next table
            "allocator_background_threads": "true",
            "allocator_bulk_deallocation_flush_threshold": "'16MB'",
        }
        if threads is not None:
            settings["threads"] = str(threads)
        known = {name for (name,) in run(self.con, "SELECT name FROM duckdb_settings()")}
        for name, value in settings.items():
            if name not in known:
                continue
            try:
                run(self.con, f"SET GLOBAL {name}={value}")
            except duckdb.Error:
                if name != "memory_limit":
                    raise
                self.close()
                raise ConfigError(
                    f"memory_limit under [offline] is {memory_limit!r}: no size; write one such as 4GB or 512MB"
                ) from None

    def _search_path(self, root: Path) -> Path:
        """The root as DuckDB takes it: a comma would part it in two, so a link stands for a root that has one."""
        if "," not in str(root):
            return root
        link = self.folder / "root"
        link.symlink_to(root, target_is_directory=True)
        return link

    def close(self) -> None:
        """Give back the database and the folder."""
        self.con.close()
        self._remove()


def _remove(folder: Path, pid: int) -> None:
    if pid == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
