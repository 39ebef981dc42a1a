"""Every public docstring names every argument, and has the parts that the house asks for."""

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import jaxflow as jf

PACKAGES = (
    "optim",
    "problems",
    "curvature",
    "dynamics",
    "solve",
    "comparison",
    "density",
    "landscape",
    "sweeps",
    "plot",
    "games",
    "kernels",
)

IN_MODULES = {
    jf.solve.metrics: (
        "loss",
        "gradient_norm",
        "update_norm",
        "update_cosine",
        "of_parameters",
        "at_stride",
        "Step",
    ),
    jf.dynamics.noise: ("full", "subset", "two_batches", "Noise", "Sampling"),
    jf.problems.losses: ("cross_entropy", "squared_error"),
}


def public() -> dict[str, object]:
    """What users call, by its shortest name; a thing that has two names is there once."""
    found: dict[int, tuple[str, object]] = {}
    for place, names in IN_MODULES.items():
        for name in names:
            thing = getattr(place, name)
            found[id(thing)] = f"{place.__name__}.{name}".removeprefix("jaxflow."), thing
    for place in (jf, *(getattr(jf, package) for package in PACKAGES)):
        for name, thing in vars(place).items():
            module = getattr(thing, "__module__", None) or ""
            if callable(thing) and not name.startswith("_") and module.startswith("jaxflow"):
                found.setdefault(id(thing), (f"{place.__name__}.{name}".removeprefix("jaxflow."), thing))
    return dict(sorted(found.values(), key=lambda pair: pair[0]))


PUBLIC = public()
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if not inspect.isclass(thing)}


def arguments(thing) -> list[str]:
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing)]
    if fields := getattr(thing, "_fields", None):
        return list(fields)
    if inspect.isclass(thing) and thing.__init__ is object.__init__:
        return []
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return []  # another library's, or made by a constructor of ours
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def raises(function) -> bool:
    """Whether the text of a function holds a `raise`, or a check at the door."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "_check":
            return True
    return False


def own_doc(thing) -> str:
    return inspect.cleandoc(
        vars(thing).get("__doc__") or "" if inspect.isclass(thing) else thing.__doc__ or ""
    )


def section(doc: str, title: str) -> str:
    """The text between a bold title and the next one, or the examples."""
    found = re.search(rf"\*\*{title}\*\*(.*?)(?=^\*\*[A-Z]\w+\*\*|^>>>|\Z)", doc, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def test_there_is_much_that_is_public():
    assert len(PUBLIC) > 120
    assert {"iterate", "optim.adam", "dynamics.sgd", "Objective", "sweeps.best", "plot.plane"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_named(name):
    thing = PUBLIC[name]
    doc = own_doc(thing)
    where = doc if inspect.isclass(thing) else section(doc, "Arguments")
    missing = [argument for argument in arguments(thing) if not re.search(rf"`\*{{0,2}}{argument}\b", where)]
    assert not missing, f"{name} does not describe {', '.join(missing)}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_all_parts(name):
    function = FUNCTIONS[name]
    doc = own_doc(function)
    parts = {
        "Arguments": bool(arguments(function)),
        "Returns": True,
        "Raises": raises(function),
    }
    missing = [part for part, needed in parts.items() if needed and not section(doc, part).strip()]
    missing += ["an example"] if ">>> " not in doc else []
    assert not missing, f"{name} lacks {', '.join(missing)}"


@pytest.mark.parametrize("name", PUBLIC)
def test_the_first_line_is_a_sentence(name):
    first = own_doc(PUBLIC[name]).split("\n\n")[0]
    assert len(first.split()) >= 3
    assert first.rstrip().endswith((".", "$", ":")), first


def test_parts_are_told_apart():
    doc = "Say.\n\n**Arguments**\n\n- `a`: b.\n\n**Returns** c.\n\n>>> 1\n1"
    assert section(doc, "Arguments").strip() == "- `a`: b."
    assert section(doc, "Returns").strip() == "c."
    assert not section(doc, "Raises")


@pytest.mark.parametrize(
    "name", sorted(jf.optim.OPTIMIZERS.keys() | jf.optim.SCHEDULES.keys() - {"constant"})
)
def test_published_methods_name_their_source(name):
    made = jf.optim.OPTIMIZERS.get(name) or jf.optim.SCHEDULES[name]
    assert re.search(r"\b(18|19|20)\d\d\b", made.__doc__)


ROOT = Path(__file__).parent.parent
STUMBLES = re.compile(
    r"\b(beside|manieth|so many|whence|is none of|is none that|which is none|what (?:is|are) no|without one of|"
    r"as good as|next to nothing|otherwise than|neither has it|"
    r"(?<!there )(?:is|are) no (?:tuple|optimizer|integer|function|sequence|names|axes|examples))\b"
)


def test_words_that_strangers_stumble_on_are_not_used():
    """In code, docstrings, comments, messages and pages: a word that a reader must look up, or read twice."""
    pages = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md")
    ]
    found = []
    for path in [
        *pages,
        *sorted((ROOT / "jaxflow").rglob("*.py")),
        *sorted((ROOT / "experiments").rglob("*.py")),
    ]:
        text = re.sub(r"\s+", " ", path.read_text())
        found += [f"{path.name}: {match[0]}" for match in STUMBLES.finditer(text)]
    assert not found


PLACES = re.compile(r"_?(at|on|in|of|by|over|under|along|up|through|across|none|nothing)(_\w*)?")
HELD_BY_PICKLES = {"_of_trained", "_on_curve"}


def test_functions_are_named_by_verbs_or_nouns():
    """A preposition says where, not what is done. Public names and those that pickles hold are exceptions."""
    found = []
    for path in sorted((ROOT / "jaxflow").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            name = getattr(node, "name", "") if isinstance(node, ast.FunctionDef) else ""
            if PLACES.fullmatch(name) and name not in HELD_BY_PICKLES | vars(jf.solve.metrics).keys():
                found.append(f"{path.name}: {name}")
    assert not found
