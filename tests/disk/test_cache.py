"""Compiled programs on disk: kept, found again, shared by two processes at once, and done without where need be."""

import os
import re
import subprocess
import sys

import pytest

from jaxflow._disk.program_cache import keep_programs

CODE = """
import jax, jax.numpy as jnp
import jaxflow as jf
from jaxflow._disk import program_cache
hits = []
def heard(event, **_):
    if event.endswith("cache_hits"):
        hits.append(event)
jax.monitoring.register_event_listener(heard)
program_cache.SHORTEST = 0.0
folder = program_cache.keep_programs()
loss = lambda x: jnp.sum(x**4)
path = jf.integrate(jf.dynamics.gradient_flow(loss), jnp.ones(3), jnp.linspace(0.0, 1.0, 5))
run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(3), steps=5)
print(folder, len(hits), float(path.params[0]))
"""


def environment(folder):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    return kept | {"JAX_COMPILATION_CACHE_DIR": str(folder)}


def start(folder, code=CODE, **more):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environment(folder) | more, **streams)


def ended(process):
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.split(), errors


def test_a_flow_and_a_run_are_found_again_by_the_next_process_and_two_may_share_a_folder(tmp_path):
    """Two begin at once on an empty folder; a third finds the programs of both verbs, and the same number."""
    pair = [start(tmp_path), start(tmp_path)]
    outs = [ended(process) for process in pair]
    assert all(not re.search("rror", errors) for _, errors in outs)
    (folder, hits, value), errors = ended(start(tmp_path))
    assert folder == str(tmp_path / "jaxflow")
    assert int(hits) >= 2
    assert "rror" not in errors
    assert {float(out[2]) for out, _ in outs} == {float(value)}


@pytest.mark.skipif(sys.platform == "win32", reason="/dev/null is none there")
def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    (folder, _, _), errors = ended(start(blocked / "folder"))
    assert folder == "None"
    assert errors.count("Compiled programs are not kept, as") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="it knows no limit on files")
def test_a_folder_without_room_is_one_warning(tmp_path):
    """As on a full disk: a file can be made, but not written."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    (folder, _, _), errors = ended(start(tmp_path, code=limit + CODE))
    assert folder == "None"
    assert errors.count("arning") == 1
    assert not any((tmp_path / "jaxflow").iterdir())


def test_a_process_that_was_killed_while_it_wrote_leaves_nothing_that_lasts(tmp_path):
    """JAX writes a program, then when it was last used; where the latter lacks it never writes again."""
    half = tmp_path / "jaxflow" / "jit_f-0-cache"
    half.parent.mkdir()
    half.write_bytes(b"the beginning of a progr")
    assert "rror" not in ended(start(tmp_path))[1]
    assert not half.exists()
    (_, hits, _), errors = ended(start(tmp_path))
    assert int(hits) >= 2
    assert "rror" not in errors


def test_off_by_a_flag(tmp_path):
    (folder, _, _), _ = ended(start(tmp_path / "new", JAX_ENABLE_COMPILATION_CACHE="false"))
    assert folder == "None"
    assert not (tmp_path / "new").exists()


def test_a_folder_that_jax_used_without_a_lock_serves_too(tmp_path):
    """JAX does not find out when such files were used, and would fail to write next to them."""
    (tmp_path / "jit_f-0-cache").write_bytes(b"of another process")
    assert "rror" not in ended(start(tmp_path))[1]
    (_, hits, _), errors = ended(start(tmp_path))
    assert int(hits) >= 2
    assert "rror" not in errors


def test_a_remote_folder_is_left_to_jax(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
    assert keep_programs() is None
