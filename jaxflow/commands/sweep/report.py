"""What the sweep of learning rates and batch sizes says: the numbers derived, the table, the maps, the files."""

import dataclasses
from typing import Any

import numpy as np

import jaxflow as jf
from jaxflow._disk import results
from jaxflow._text.text_table import text_table
from jaxflow.commands.shared.training import score_name
from jaxflow.commands.sweep.cells import CELL, RUN, mean, number_of, sharpness, unit
from jaxflow.commands.sweep.laws import inhomogeneity
from jaxflow.sweeps import best

FILES = ("sweep.png", "sweep.nc", "summary.json")
RAW = ("params", "sde_params")


def add_distances(dataset: Any, flow: Any) -> Any:
    """The dataset with every run's distance from gradient flow, and every cell's from the SDE."""
    ends = dataset["params"].transpose(*RUN, ...).values.astype(float)
    travelled = np.linalg.norm(flow.ends.astype(float) - flow.start, axis=-1)
    gaps = np.linalg.norm(ends - flow.ends[:, None, None], axis=-1) / travelled[:, None, None]
    said = "|θ_K − θ(t)| / |θ(t) − θ(0)|, θ_K of the run, θ(t) of gradient flow at t = K × learning rate"
    new = {
        "distance_to_flow": (RUN, gaps, {"long_name": said}),
        "flow_loss": (
            ("learning_rate",),
            flow.losses[1:],
            {"long_name": "training loss of gradient flow at t"},
        ),
        "flow_travelled": (("learning_rate",), travelled, {"long_name": "|θ(t) − θ(0)| of gradient flow"}),
        "flow_sharpness": (("learning_rate",), flow.sharpness[1:], {"long_name": "sharpness at θ(t)"}),
    }
    if "sde_params" in dataset:
        paths = dataset["sde_params"].transpose(*RUN, ...).values
        found = np.array(
            [
                [inhomogeneity(*pair) for pair in zip(*row, strict=True)]
                for row in zip(ends, paths, strict=True)
            ]
        )
        said = "energy coefficient of inhomogeneity E/(2E|X − Y|) of the parameters at the end"
        new["distance_to_sde"] = (CELL, found[..., 0], {"long_name": said})
        said = "what 95 % of random relabellings of runs and paths stay below"
        new["distance_to_sde_noise"] = (CELL, found[..., 1], {"long_name": said})
    dataset = dataset.assign(new)
    dataset.attrs["sharpness_at_start"] = float(flow.sharpness[0])
    return dataset


def table(dataset: Any) -> str:
    """Final losses as text: a row for each batch size, a column for each learning rate."""
    lost = dataset["diverged"].transpose(*RUN).values.mean(-1)
    show = lambda loss, share: "×" if share == 1 else f"{loss:.4g}" + ("·×" if share else "")
    cells = [
        [show(*cell) for cell in zip(*row, strict=True)]
        for row in zip(mean(dataset, "final_loss").T, lost.T, strict=True)
    ]
    head = ["batch \\ rate", *(f"{rate:g}" for rate in dataset["learning_rate"].values)]
    lines = [
        head,
        *([f"{size}", *row] for size, row in zip(dataset["batch_size"].values, cells, strict=True)),
    ]
    marks = {"×": "all seeds diverged", "·×": "some did, mean of the others"}
    used = [
        f"{mark} {what}"
        for mark, what in marks.items()
        if any(c.lstrip("0123456789.e+-") == mark for r in cells for c in r)
    ]
    return "\n".join([text_table(lines, left=()), *(["; ".join(used)] if used else [])])


def summary(settings: Any, problem: Any, optimizer: Any, dataset: Any) -> dict[str, Any]:
    """What the sweep found, in few numbers."""
    try:
        cell = best(dataset, "final_loss")
        winner = {name: cell[name].item() for name in CELL} | {
            name: float(cell[name].mean()) for name in ("final_loss", "test_score", "distance_to_flow")
        }
    except ValueError:  # all diverged
        winner = None
    first, last = sharpness(dataset)
    found: dict[str, Any] = {
        "best": winner,
        "score": score_name(problem),
        "classes": problem.classes,
        "diverged": int(dataset["diverged"].sum()),
        "trials": int(dataset["diverged"].size),
        "sharpness": {"start": first, "flow_end": last},
        "two_over_sharpness": {"start": 2 / first, "flow_end": 2 / last},
        "temperature_per_rate": unit(settings, optimizer),
    }
    if "distance_to_sde" in dataset:
        gap, noise = dataset["distance_to_sde"].values, dataset["distance_to_sde_noise"].values
        lost = ~np.isfinite(dataset["sde_loss"].values) & ~dataset["diverged"].values
        found["sde"] = {
            "paths_lost": int(lost.sum()),
            "cells": int(np.isfinite(gap).sum()),
            "apart": int((gap > noise).sum()),
            "noise": float(np.nanmedian(noise)) if np.isfinite(noise).any() else float("nan"),
        }
    return found


def say(settings: Any, problem: Any, optimizer: Any, dataset: Any) -> None:
    """Print the table, the best cell, the edge of stability and how far the SDE is."""
    found = summary(settings, problem, optimizer, dataset)
    print(f"\nFinal training loss, mean of {number_of(settings.seeds, 'seed')}:\n{table(dataset)}\n")
    winner = found["best"]
    if winner is None:
        print("No cell finished with all its seeds.")
    else:
        print(
            f"Best: learning rate {winner['learning_rate']:g}, batch {winner['batch_size']}: loss "
            f"{winner['final_loss']:.4g}, {found['score']} {winner['test_score']:.4f}."
        )
    edge = found["two_over_sharpness"]
    print(f"2/sharpness: {edge['start']:.4g} at the start, {edge['flow_end']:.4g} at the end of the flow.")
    print(f"Diverged: {found['diverged']} of {found['trials']} runs.")
    if "sde" in found:
        sde = found["sde"]
        print(
            f"SDE: its law is told apart from that of the runs in {sde['apart']} of {sde['cells']} cells, where H "
            f"is above the noise of {number_of(settings.seeds, 'seed')}, {sde['noise']:.2g}."
        )
        if sde["paths_lost"]:
            print(
                f"{number_of(sde['paths_lost'], 'path')} of the SDE diverged where the runs did not, and are "
                "left out."
            )


def write(settings: Any, problem: Any, optimizer: Any, dataset: Any) -> None:
    """The dataset without the parameters, the summary and the figure."""
    from jaxflow.commands.sweep.maps import maps

    slim = dataset.drop_vars([name for name in RAW if name in dataset])
    slim["diverged"] = slim["diverged"].astype("int8").assign_attrs(slim["diverged"].attrs)
    results.write(settings.output / "sweep.nc", bytes(slim.to_netcdf()))
    chosen = dataclasses.asdict(settings) | {"hyperparameters": jf.optim.hyperparameters(optimizer)}
    summarized = summary(settings, problem, optimizer, dataset) | {"settings": chosen, **results.provenance()}
    results.write_json(settings.output / "summary.json", summarized)
    results.write_figure(settings.output / "sweep.png", maps(settings, problem, optimizer, dataset))
