# SPDX-License-Identifier: GPL-3.0-or-later
import subprocess
import sys


def doctor(*arguments):
    return subprocess.run([sys.executable, "-m", "server", "doctor", *map(str, arguments)], capture_output=True,
                          text=True, timeout=120)


def test_a_machine_that_is_well(tmp_path, folders):
    done = doctor("--data", tmp_path, "--port", 0, "--models", folders["epsilon"])
    assert done.returncode == 0, done.stdout
    for words in ("Python 3.11", "torch", "bundled model", str(folders["epsilon"]), "GiB free"):
        assert words in done.stdout
    assert "MISSING" not in done.stdout


def test_what_is_missing_comes_with_what_mends_it(tmp_path, server):
    (tmp_path / "file").touch()
    port = server.url.rpartition(":")[2]
    done = doctor("--data", tmp_path / "file" / "data", "--port", port, "--models", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "has no model_index.json" in done.stdout and "choose another --port" in done.stdout
    assert "another folder with --data" in done.stdout
