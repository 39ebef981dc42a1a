"""What a first call waits for: every program it compiles, with the seconds of tracing, of lowering and of compiling.

Each call has a process of its own, which keeps no programs on disk. The floor is the compilation of one gradient.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from typing import Any

from experiments.common import start, table
from jaxflow._disk import results

STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}

SETTING = """
import jax, jax.numpy as jnp, jaxflow as jf
problem = jf.problems.mlp("digits")
cast = lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
problem = jax.tree.map(cast, problem)
objective, params, key = problem.objective, problem.params, jax.random.key(0)
times = jnp.linspace(0.0, 2.0, 20, dtype=jnp.float32)
flow = jf.dynamics.gradient_flow(objective)
jax.block_until_ready((problem, times, key))
"""

CALLS = {
    "one gradient": "jax.jit(lambda loss, params: jax.grad(loss)(params))(objective, params)",
    "iterate": "jf.iterate(jf.optim.gd(0.1), objective, params, steps=20)",
    "gradient flow": "jf.integrate(flow, params, times)",
    "derivative of where gradient flow ends": (
        "jax.jit(jax.grad(lambda start: sum(jnp.vdot(x, x) for x in "
        "jax.tree.leaves(jf.integrate(flow, start, times).params))))(params)"
    ),
    "gradient flow by RKC2": "jf.integrate(flow, params, times, solver=jf.RKC2(), rtol=1e-4)",
    "modified equation of order 4": (
        "jf.integrate(jf.dynamics.modified(jf.optim.gd(0.1), objective, order=4), params, times)"
    ),
    "SDE of SGD": "jf.integrate(jf.dynamics.sgd(objective, 0.1, 32), params, times, key=key)",
}

COMMANDS = {
    "python -m jaxflow compare": ["compare", "--steps", "20"],
    "python -m jaxflow edge": ["edge", "--steps", "50"],
}

PROCESS = """
import json, sys, time, jax
events = []
def heard(event, seconds, **more):
    events.append((event, seconds, more.get("fun_name", "")))
jax.monitoring.register_event_duration_secs_listener(heard)
exec(sys.argv[1])
events.clear()
began, wall = time.process_time(), time.perf_counter()
result = eval(sys.argv[2])
jax.block_until_ready(result)
spent = {"cpu": time.process_time() - began, "wall": time.perf_counter() - wall}
print("\\n" + json.dumps({"events": events, **spent}))
"""


def measure_programs(call: str, setting: str = SETTING) -> dict[str, Any]:
    """The programs of a first call, by name, and the CPU and wall seconds of all of it."""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", PROCESS, setting, call]
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found = json.loads(out.splitlines()[-1])
    programs: dict[str, dict[str, float]] = defaultdict(
        lambda: {"number": 0, **dict.fromkeys(STAGES.values(), 0.0)}
    )
    for event, seconds, name in found.pop("events"):
        if event in STAGES:
            program = programs[name.removeprefix("jit(").removesuffix(")")]
            program[STAGES[event]] += seconds
            program["number"] += STAGES[event] == "compile"
    compiled = {name: program for name, program in programs.items() if program["number"]}
    return {"programs": compiled, "number": sum(int(p["number"]) for p in compiled.values()), **found}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    run = start("benchmarks", __doc__, [*(arguments or ()), "--no-cache"])
    calls = {what: (call, SETTING) for what, call in CALLS.items()}
    for what, words in COMMANDS.items():
        words = [*words, "--output", str(run.output / words[0])]
        calls[what] = f"main({words!r})", "from jaxflow.__main__ import main"
    found = {}
    for what, (call, setting) in calls.items():
        found[what] = measure_programs(call, setting)
        rows = [
            (name, program["number"], *(round(program[stage], 3) for stage in STAGES.values()))
            for name, program in sorted(found[what]["programs"].items(), key=lambda pair: -pair[1]["compile"])
        ]
        head = (
            f"{what}: {found[what]['cpu']:.2f} CPU seconds",
            "programs",
            *(f"{s}, s" for s in STAGES.values()),
        )
        print(table(head, [*rows, ("all", found[what]["number"], "", "", "")]), end="\n\n", flush=True)
    floor = found["one gradient"]["cpu"]
    print(
        table(
            ("first call", "CPU s", "× one gradient", "programs"),
            [(what, f["cpu"], f["cpu"] / floor, f["number"]) for what, f in found.items()],
        )
    )
    results.write_json(run.output / "compilation.json", {"calls": found, **results.provenance()})
    return found
