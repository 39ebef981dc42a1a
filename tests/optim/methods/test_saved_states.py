"""A run that is saved goes on in another process as one that never ended, to the bit, with every optimizer."""

import os
import subprocess
import sys
from pathlib import Path

import cases
import jax
import numpy as np
import pytest
from cases import ONE_FORM_EACH, START, loss, vector_and_matrix

import jaxflow as jf

pytestmark = pytest.mark.promotes


GO_ON = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_enable_x64", True)
import jaxflow as jf
from cases import ONE_FORM_EACH, START, loss, vector_and_matrix
for i, case in enumerate(ONE_FORM_EACH):
    run = lambda params, **state: jf.iterate(case.make(), loss, params, steps=2, every=None, **state)
    path = Path(sys.argv[1]) / f"{i}.npz"
    half = jf.Trajectory.load(path, like=lambda: run(vector_and_matrix(START)))
    run(half.params, state=half.state).save(path)
"""


def test_every_optimizer_goes_on_in_another_process(tmp_path):
    ends = []
    for i, case in enumerate(ONE_FORM_EACH):
        run = lambda params, steps, case=case: jf.iterate(case.make(), loss, params, steps=steps, every=None)
        ends.append(run(vector_and_matrix(START), 4))
        run(vector_and_matrix(START), 2).save(tmp_path / f"{i}.npz")
    folder = str(Path(cases.__file__).parent)
    paths = os.pathsep.join([folder, *sys.path])
    subprocess.run(
        [sys.executable, "-c", GO_ON, tmp_path], check=True, env=os.environ | {"PYTHONPATH": paths}
    )
    for i, end in enumerate(ends):
        loaded = jf.Trajectory.load(tmp_path / f"{i}.npz", end)
        jax.tree.map(np.testing.assert_array_equal, (loaded.params, loaded.state), (end.params, end.state))
