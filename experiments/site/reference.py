"""Pages of the API reference: the public names of each package, rendered from their docstrings."""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import griffe

from experiments.site.docstrings import ROOT

# Packages and modules with names for users, in the order of the README.
PACKAGES = (
    "solve",
    "solve.metrics",
    "optim",
    "dynamics",
    "density",
    "landscape",
    "kernels",
    "curvature",
    "comparison",
    "games",
    "sweeps",
    "problems",
    "plot",
)


class Name(NamedTuple):
    """A public name: what it is called, and the module that it comes from."""

    name: str
    module: str


def public_names(package: str) -> list[Name]:
    """What the `__init__` of a package passes on (`import x as x`), or what a module defines itself."""
    path = _file_of(package)
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py":
        defined = (node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
        return [Name(node.name, package) for node in defined if not node.name.startswith("_")]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxflow"):
            found += [
                Name(a.name, node.module)
                for a in node.names
                if a.asname == a.name and not _is_module(node, a)
            ]
    return sorted(set(found), key=lambda one: one.name.lower())


def _entry(package: str, one: Name) -> str:
    """What mkdocstrings renders: a name by its package, or by where its text is if that tells another thing."""
    elsewhere = _wrapped_function(one)
    if elsewhere is None and (ROOT / "/".join(package.split(".")) / f"{one.name}.py").exists():
        elsewhere = f"{one.module}.{one.name}"  # the module of the same name is meant by the package's
    if elsewhere is None:
        return f"::: {package}.{one.name}"
    return f"::: {elsewhere}\n    options:\n      heading: {package}.{one.name}"


def _wrapped_function(one: Name) -> str | None:
    """The function that a name is made of by `name = wrapper(module.function, …)`, and whose text it has."""
    tree = ast.parse(_file_of(one.module).read_text())
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == one.name:
            inner = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else None
            if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) in homes:
                return f"{homes[ast.unparse(inner.value)]}.{inner.attr}"
    return None


def _file_of(module: str) -> Path:
    path = ROOT / "/".join(module.split("."))
    init = path / "__init__.py"
    return init if init.exists() else path.with_suffix(".py")


def _is_module(node: ast.ImportFrom, alias: ast.alias) -> bool:
    path = ROOT / "/".join(f"{node.module}.{alias.name}".split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def reference_pages() -> dict[str, str]:
    """Markdown by file name. Names of the top level are linked to where they are described."""
    pages = {f"{package}.md": _package_page(f"jaxflow.{package}") for package in PACKAGES}
    links, own = [], []
    for one in public_names("jaxflow"):
        package = one.module.removeprefix("jaxflow.")
        if package in PACKAGES and any(other.name == one.name for other in public_names(one.module)):
            links.append(f"- [`jf.{one.name}`]({package}.md#jaxflow.{package}.{one.name})")
        else:
            own.append(f"::: jaxflow.{one.name}")
    packages = [f"- [`jaxflow.{package}`]({package}.md)" for package in PACKAGES]
    text = ["# jaxflow", "`import jaxflow as jf` gives these names.", "\n".join(links), *own]
    pages["index.md"] = "\n\n".join([*text, "## Packages", "\n".join(packages)]) + "\n"
    return pages


def _package_page(package: str) -> str:
    doc = ast.get_docstring(ast.parse(_file_of(package).read_text()))
    entries = [_entry(package, one) for one in public_names(package)]
    return "\n\n".join([f"# {package}", fence_examples(doc or ""), *entries]) + "\n"


def fence_examples(doc: str) -> str:
    """A docstring with its examples (`>>>`) as code, which Markdown would take for quotations."""
    return re.sub(
        r"(?m)^(?:>>> .*\n?)(?:^.+\n?)*", lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", doc
    )


class Examples(griffe.Extension):
    """Has mkdocstrings render the examples in docstrings as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fence_examples(obj.docstring.value)
