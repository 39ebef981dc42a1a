"""The law of layers: imports point down, in no circle, and nothing private is imported from elsewhere."""

import ast
import importlib
import pickle
import re
import sys
import warnings
from graphlib import TopologicalSorter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxflow as jf
from jaxflow._moved import MOVED

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "jaxflow").rglob("*.py"))
# A package imports from its own layer, if it must, and from those before.
LAYERS = (
    {"games", "objective", "recording"},  # and jaxflow._*
    {"optim", "problems"},
    {"curvature"},
    {"dynamics"},
    {"solve"},
    {"density", "landscape", "kernels", "comparison", "sweeps"},
    {"plot"},
    {"commands", "__main__"},
)


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}
# A module of ours that is fetched by its name.
BY_NAME = re.compile(r"(importlib\.)?import_module\('jaxflow\.[\w.]+'\)$|sys\.modules\['jaxflow\.[\w.]+'\]$")


def imports(path: Path) -> list[tuple[str, str | None]]:
    """The (module, name) pairs that a file imports of jaxflow, inside functions too; no name for a whole module."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names if alias.name.split(".")[0] == "jaxflow"]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relative to itself, which nothing here follows"
            for alias in node.names if (node.module or "").split(".")[0] == "jaxflow" else ():
                submodule = f"{node.module}.{alias.name}"
                found.append((submodule, None) if submodule in MODULES else (node.module, alias.name))
    return found


def layer(name: str) -> int:
    """The place of a module among `LAYERS`; the package itself, which imports the others, is for the last."""
    if name == "jaxflow":
        return len(LAYERS) - 1
    top = name.split(".")[1]
    if top.startswith("_") and top != "__main__":
        return 0
    (place,) = (i for i, names in enumerate(LAYERS) if top in names)  # one that has none is to be given one
    return place


def test_imports_point_down():
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name != "jaxflow"
        for other, _ in imports(path)
        if layer(other) > layer(name)
    ]
    assert not wrong


def fetches_by_name(path: Path) -> bool:
    """Whether a file fetches modules by their names, in a way that `imports` does not read."""
    tree = ast.parse(path.read_text())
    loaders = {"import_module", "__import__", "resolve_name", "run_module", "exec_module"}
    names = {getattr(node, "id", getattr(node, "attr", getattr(node, "name", ""))) for node in ast.walk(tree)}
    return not loaders.isdisjoint(names)


def test_modules_are_fetched_by_name_in_two_places():
    """Old names of modules, and the table of optimizers, whose entries name formulas of the packages above it."""
    found = {name for name, path in MODULES.items() if fetches_by_name(path)}
    assert found == {"jaxflow._moved", "jaxflow.optim.table"}


def test_rooms_beside_each_other_do_not_import_each_other():
    room = lambda name: name.split(".")[1]
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name != "jaxflow" and layer(name) > 0
        for other, _ in imports(path)
        if other != "jaxflow" and layer(other) == layer(name) and room(other) != room(name)
        if room(name) != "__main__"
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import jaxflow.solve.times", [("jaxflow.solve.times", None)]),
        ("def f():\n    from jaxflow.solve import times", [("jaxflow.solve.times", None)]),
        ("if True:\n    from jaxflow.solve.times import Times as T", [("jaxflow.solve.times", "Times")]),
        ("import jaxflow as jf", [("jaxflow", None)]),
        ("import jax\nfrom jax import numpy", []),
    ],
)
def test_imports_are_read_wherever_they_stand(text, found, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(text)
    assert imports(path) == found
    assert not fetches_by_name(path)
    path.write_text("def f():\n    import importlib\n    return importlib.import_module('jaxflow.solve')")
    assert fetches_by_name(path)
    path.write_text("from . import times")
    with pytest.raises(AssertionError, match="relative to itself"):
        imports(path)


def test_there_is_no_circle():
    graph = {name: {other for other, _ in imports(path)} - {name} for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which tells the circle


def test_there_is_no_circle_between_rooms():
    """Between packages and the files next to them, such as `_losses`, `games` and `objective`."""
    rooms: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name != "jaxflow":
            here = name.split(".")[1]
            rooms.setdefault(here, set()).update(
                other.split(".")[1] for other, _ in imports(path) if "." in other
            )
            rooms[here].discard(here)
    assert len(rooms) > 20
    assert list(TopologicalSorter(rooms).static_order())  # raises CycleError, which tells the circle


def test_there_is_no_circle_between_floors():
    """Between the folders of one package and the files next to them, such as `optim.methods` and `optim.table`."""
    floors: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name.count(".") >= 2 and path.name != "__init__.py":
            here = ".".join(name.split(".")[:3])
            others = {".".join(other.split(".")[:3]) for other, _ in imports(path) if other.count(".") >= 2}
            floors.setdefault(here, set()).update(others - {here})
    assert len(floors) > 80
    assert list(TopologicalSorter(floors).static_order())


def test_values_are_given_by_name_where_they_are_many():
    """Of more than six fields of a record, or seven arguments, nobody sees which is which."""
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).split(".")[-1]
                most = 6 if called.lstrip("_")[:1].isupper() else 7
                if len(node.args) > most and called != "zip":
                    wrong.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} gives {called} {len(node.args)} values"
                    )
    assert not wrong


def test_static_arguments_are_named():
    """Not counted, but where `compiled` itself orders the arguments."""
    files = [*FILES, *(ROOT / "experiments").rglob("*.py")]
    counted = [path.relative_to(ROOT) for path in files if "static_argnums" in path.read_text()]
    assert counted == [Path("jaxflow/_compiled.py")]


def private(name: str | None) -> bool:
    return name is not None and name.startswith("_") and not name.startswith("__")


def looked_into(path: Path) -> list[str]:
    """Private names taken off what is imported of jaxflow: `verb._name`, `import_module("jaxflow.x")._name`."""
    tree = ast.parse(path.read_text())
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxflow":
            ours |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            ours |= {
                alias.asname or "jaxflow" for alias in node.names if alias.name.split(".")[0] == "jaxflow"
            }
        elif isinstance(node, ast.Assign) and BY_NAME.match(ast.unparse(node.value)):
            ours |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            whole = ast.unparse(node.value)
            if BY_NAME.match(whole) or (re.fullmatch(r"[\w.]+", whole) and whole.split(".")[0] in ours):
                found.append(ast.unparse(node))
    return found


def test_nothing_private_is_imported():
    wrong = []
    for path in [*FILES, *(ROOT / "experiments").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for other, name in imports(path):
            if any(map(private, other.split(".")[2:])) or private(name):
                wrong.append(f"{path.relative_to(ROOT)} imports {other}.{name}")
        wrong += [f"{path.relative_to(ROOT)} looks at {name}" for name in looked_into(path)]
    assert not wrong


@pytest.mark.parametrize("old", MOVED)
def test_old_modules_still_import(old):
    """They warn, name the new module, and hold the same things."""
    stand_in = importlib.import_module(f"jaxflow.{old}")
    new = importlib.import_module(f"jaxflow.{MOVED[old]}")
    name = next(name for name, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__)
    with pytest.warns(DeprecationWarning, match=f"jaxflow.{MOVED[old]}"):
        assert getattr(stand_in, name) is getattr(new, name)


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("jaxflow.dynamics.flows", "gradient_flow"),
        ("jaxflow.dynamics.diffusions", "sgd"),
        ("jaxflow.dynamics.noise", "gradient_and_noise"),
        ("jaxflow.comparison.edge", "edge_study"),
        ("jaxflow.plot.densities", "density"),
        ("jaxflow.plot.sweeps", "sweep"),
        ("jaxflow.optim.adaptive", "rmsprop"),
        ("jaxflow.optim.adaptive", "SecondMomentState"),
        ("jaxflow.optim.adaptive", "adam"),
    ],
)
def test_modules_that_were_divided_hold_what_they_held(old, name):
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} has moved"):
        assert callable(getattr(sys.modules[old], name))
    with pytest.raises(AttributeError, match="nothing"):
        _ = sys.modules[old].nothing


def test_functions_are_not_hidden_by_old_modules():
    importlib.import_module("jaxflow.solve.integrate")
    assert callable(jf.solve.integrate)
    assert callable(jf.comparison.compare)


def test_old_modules_are_found_from_their_package():
    with pytest.warns(
        DeprecationWarning, match=r"plot\.lines\.trajectories has moved to jaxflow\.plot\.runs\.lines"
    ):
        assert jf.plot.lines.trajectories is jf.plot.trajectories


def test_pickles_of_earlier_versions_open():
    """Protocol 0 spells out the module of a class: a trajectory's was the same, an inertial state's was not."""
    state = jf.dynamics.InertialState(jnp.ones(2), jnp.zeros(2))
    new = type(state).__module__.encode()
    old = pickle.dumps(state, protocol=0).replace(new, b"jaxflow.dynamics.inertial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        opened = pickle.loads(old)
    assert type(opened) is type(state)
    assert jnp.array_equal(opened.params, state.params)


@pytest.mark.parametrize(
    ("made", "new", "old"),
    [
        (jf.optim.nesterov(0.1), b"optim.methods.descent", b"optim.descent"),
        (jf.optim.amsgrad(0.1).init(jnp.ones(2)), b"optim.methods.adaptive", b"optim.adaptive"),
        (jf.problems.models.networks.Network("tanh"), b"problems.models.networks", b"problems.networks"),
    ],
)
def test_pickles_of_the_last_version_open(made, new, old):
    pickled = pickle.dumps(made, protocol=0)
    assert new in pickled
    with pytest.warns(DeprecationWarning, match="has moved to jaxflow." + new.decode()):
        opened = pickle.loads(pickled.replace(new, old))
    assert jax.tree.structure(opened) == jax.tree.structure(made)


@pytest.mark.parametrize("made", [jf.optim.rmsprop(0.1), jf.optim.scalar_rmsprop(0.1).init(jnp.ones(2))])
def test_pickles_name_a_module_that_was_divided(made):
    old = pickle.dumps(made, protocol=0).replace(b"optim.methods.squared_gradients", b"optim.adaptive")
    with pytest.warns(
        DeprecationWarning, match=r"adaptive\.\w+ has moved to jaxflow\.optim\.methods\.squared_gradients"
    ):
        opened = pickle.loads(old)
    assert jax.tree.structure(opened) == jax.tree.structure(made)
    assert jax.tree.leaves(opened) == jax.tree.leaves(made)
