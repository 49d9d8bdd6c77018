"""The example that trains a model, run as a user would."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_it_learns_and_sees_the_same_features_online(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMFEATURES_")}
    before = {path: path.stat().st_mtime_ns for path in (ROOT / ".llmfeatures").glob("**/*")}
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "train_model.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""

    score = re.search(r"held-out ROC AUC (\S+), a dummy's (\S+)", ran.stdout)
    assert score, ran.stdout
    model, dummy = float(score[1]), float(score[2])
    assert dummy == 0.5
    assert model > 0.6, "not better than a dummy on viewers that it has not seen"

    same = re.search(r"online features equal the historical ones for (\d+) of (\d+) viewers", ran.stdout)
    assert same, ran.stdout
    assert int(same[1]) == int(same[2]) > 200
    # one viewer's newest rows, as the sample has them an hour before its clock
    assert "'watch_count_30d': 47" in ran.stdout
    assert "'last_genre': 'documentary'" in ran.stdout
    assert re.search(r"watches within a day: \d+%", ran.stdout)

    assert not list(tmp_path.iterdir())
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / ".llmfeatures").glob("**/*")}
