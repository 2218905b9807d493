"""Tables on training: hyper-parameters, networks with their speed and accuracy, what each lever is worth.

tables.py puts them into the pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from alexnet_fast.training.recipes import Recipe, named_recipes

NETWORKS = {
    "alexnet": "the textbook network: one tower, no normalisation",
    "alexnet-bn": "the same with batch normalisation and light dropout",
    "alexnet-paper": "Krizhevsky et al. 2012: groups of two, local response normalisation",
    "alexnet-owt": "torchvision's (Krizhevsky 2014); weights interchangeable both ways",
}
STEPS = ("step-gpu", "step-xeon", "step-epyc")  # results of step.py, those that are there
# Of tiny_imagenet_record.py, those that are there.
RECORDS = (*(f"record-epyc-{n}-epochs" for n in (4, 8, 16, 28)), "record-xeon-wider", "record-xeon-28-epochs")
REDUCED = ("record-reduced-fast", "record-reduced-notebook")
PAIRS = (5, 64, 16)  # classes, image size and batch of the runs in the table of networks
QUIET = 0.7  # share of the best matrix product below which other programs were at work
SURE = 2.0  # a gain counts as one from so many times its noise up
Markdown = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
Load = Callable[[str], "dict[str, Any] | None"]


def training_tables(load: Load, markdown: Markdown) -> dict[str, str]:
    """By name; `load` gives a committed result or None, `markdown` makes a table of a header and rows."""
    found = {"recipes": recipes_table(markdown)}
    steps = load("step-xeon")
    ablations = load("ablations-xeon")
    if steps is not None:
        pairs = load("pairs")
        found["networks"] = networks_table(steps, pairs, markdown)
        found["networks-machine"] = networks_machine(steps, pairs)
        found["step"] = step_table([result for name in STEPS if (result := load(name))], markdown)
    if ablations is not None:
        found["ablations"] = ablations_table(ablations, markdown)
        found["ablations-scale"] = ablations_scale(ablations)
    longer = load("ablations-xeon-16-epochs")
    if longer is not None:
        found["ablations-longer"] = ablations_table(longer, markdown)
    record = load("ablations-record-epyc")
    if record is not None:
        found["ablations-record"] = ablations_table(record, markdown)
    found["record"] = record_table([result for name in RECORDS if (result := load(name))], markdown)
    found["record-reduced"] = record_table([result for name in REDUCED if (result := load(name))], markdown)
    return found


def recipes_table(markdown: Markdown) -> str:
    """Every hyper-parameter of every recipe."""
    recipes = named_recipes()
    rows = []
    for field in fields(Recipe):
        if field.name == "name":
            continue
        values = [getattr(recipe, field.name) for recipe in recipes.values()]
        rows.append([f"`{field.name}`", *map(_word, values)])
    return markdown(["", *(f"`{name}`" for name in recipes)], rows)


def _word(value: object) -> str:
    if value is None:
        return "the network's"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "–".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def networks_table(steps: Mapping[str, Any], pairs: Mapping[str, Any] | None, markdown: Markdown) -> str:
    """What each network is, costs, and reaches in a short run of each recipe."""
    rows = []
    for name, what in NETWORKS.items():
        row = next((row for row in steps["rows"] if row["model"] == name and row["batch_size"] == 64), None)
        if row is None:
            continue
        rows.append(
            [
                f"`{name}`: {what}",
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['training_gflop_per_picture'] / 3:.2f}",
                f"{row['plain_fp32_pictures_per_s']:.0f}",
                f"{row['pictures_per_s']:.0f}{_mark(row, steps)}",
                f"{row['speed_up']:.1f}x",
                *(_reached(pairs, name, recipe) for recipe in named_recipes()),
            ]
        )
    header = ["`--model`", "parameters", "forward GFLOP", "plain fp32 loop", "our step", ""]
    return markdown([*header, *(f"`{name}`" for name in named_recipes())], rows)


def _reached(pairs: Mapping[str, Any] | None, model: str, recipe: str) -> str:
    """The top-1 of a pair; marked where it is no better than guessing, – where it was not measured."""
    if pairs is None:
        return "–"
    found = [row for row in pairs["rows"] if (row["model"], row["recipe"]) == (model, recipe) and _of_table(row)]
    return f"{found[0]['val_top1']:.1%}{'' if found[0]['over_chance'] else ' (chance)'}" if found else "–"


def _of_table(row: Mapping[str, Any]) -> bool:
    return (row["classes"], row["image_size"], row["batch_size"]) == PAIRS


def _mark(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """A dagger where the machine was not quiet: the matrix product beside the row was far below that of others."""
    best = max(other["matmul_tflop_per_s"] for other in result["rows"])
    return " †" if row["matmul_tflop_per_s"] < QUIET * best else ""


def networks_machine(steps: Mapping[str, Any], pairs: Mapping[str, Any] | None) -> str:
    """What the figures of the table of networks were measured on."""
    hardware, row = steps["hardware"], steps["rows"][0]
    repeats = min(row["repeats"] for row in steps["rows"])
    text = (
        f"Parameters and operations (a multiply and an add counted as two) at {row['classes']:,} classes and "
        f"{row['image_size']} pixels. Speed: images/s of training steps without data, batch {row['batch_size']}, on "
        f"{hardware['cores']} cores of an {hardware['cpu']} ({', '.join(hardware['bf16_instructions'])}), torch "
        f"{steps['versions']['torch'].partition('+')[0]}, the two loops in turns; median of {repeats} or more."
    )
    if any(_mark(row, steps) for row in steps["rows"]):
        text += " †: other programs took a part of the machine, from both loops alike; the ratio holds."
    rows = [row for row in pairs["rows"] if _of_table(row)] if pairs is not None else []
    if pairs is not None and rows:
        counts = "/".join(map(str, sorted({row["steps"] for row in rows})))
        text += (
            f" Last columns: validation top-1 of a short run of each recipe, {rows[0]['classes']} classes of Tiny "
            f"ImageNet (guessing gets {1 / rows[0]['classes']:.0%}), {rows[0]['val_images']} images to validate, "
            f"{rows[0]['image_size']} pixels, batch {rows[0]['batch_size']}, {counts} steps, one "
            f"seed, {pairs['hardware']['cpu']}: they say that a pair learns, not how far it gets."
        )
        if any(_reached(pairs, model, recipe) == "–" for model in NETWORKS for recipe in named_recipes()):
            text += " –: not measured."
    return text


def step_table(results: Sequence[Mapping[str, Any]], markdown: Markdown) -> str:
    """The training step on each machine that was measured."""
    rows = [
        [
            result["hardware"].get("gpu") or f"{result['hardware']['cores']} cores, {result['hardware']['cpu']}",
            f"`{row['model']}`",
            str(row["batch_size"]),
            f"{row['plain_fp32_pictures_per_s']:.1f}",
            f"{row['pictures_per_s']:.1f}{_mark(row, result)}",
            f"{row['spread'][0]:.1f}–{row['spread'][1]:.1f}",
            f"{row['speed_up']:.2f}x",
            f"{row['tflop_per_s']:.2f}",
            f"{row['share_of_matmul']:.0%}",
        ]
        for result in results
        for row in result["rows"]
    ]
    header = ["machine", "network", "batch", "plain fp32", "ours", "slowest–fastest", "", "TFLOP/s"]
    return markdown([*header, "of a matrix product"], rows)


def _levers(ablations: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {line["lever"]: line for line in ablations["summary"]["levers"]} if ablations is not None else {}


def ablations_table(ablations: Mapping[str, Any], markdown: Markdown) -> str:
    """A row a lever, by its effect on the validation loss."""
    lines = list(_levers(ablations).values())
    lines.sort(key=lambda line: (line["lever"] != "base", line["val_loss_gain"] or 0.0))
    rows = []
    for line in lines:
        loss, noise = line["val_loss_gain"], line["val_loss_noise"]
        verdict = "–"
        if loss is not None and noise:
            sure = abs(loss) >= SURE * noise and abs(line["val_top1_gain"]) >= SURE * line["val_top1_noise"]
            verdict = ("better" if loss < 0 else "worse") if sure else "within the noise"
            verdict += ", one run" if line["runs"] == 1 else ""
        rows.append(
            [
                line["lever"],
                str(line["runs"]),
                f"{line['val_top1']:.1%}",
                _gain(line["val_top1_gain"], line["val_top1_noise"], 100, 1),
                f"{line['val_loss']:.3f}",
                _gain(loss, noise, 1, 3),
                verdict,
                f"{line['cpu_seconds']:.0f}",
            ]
        )
    return markdown(["", "runs", "top-1", "points", "loss", "change", "verdict", "CPU s"], rows)


def _gain(gain: float | None, noise: float | None, scale: float, digits: int) -> str:
    if gain is None:
        return "–"
    return f"{gain * scale:+.{digits}f}" + (f" ± {noise * scale:.{digits}f}" if noise is not None else "")


def ablations_scale(ablations: Mapping[str, Any]) -> str:
    """At what scale, on what machine, and what a mirror image at test time is worth."""
    row, summary, hardware = ablations["rows"][0], ablations["summary"], ablations["hardware"]
    splits = ablations["dataset"]["splits"]
    share = _levers(ablations)["base"]["val_top1"]
    doubt = math.sqrt(share * (1 - share) / splits["val"])
    return (
        f"{ablations['dataset']['classes']} classes of Tiny ImageNet ({splits['train']:,} images to train, "
        f"{splits['val']:,} to validate), `{ablations['model']}` at {row['width']:g} of its width, {row['image_size']} "
        f"pixels, {row['epochs']} epochs, batch {row['batch_size']}, {row['precision']}, {hardware['cores']} cores of "
        f"an {hardware['cpu']}. So few images leave a standard error of {doubt:.1%} in a top-1 of {share:.0%}, "
        f"whatever the seed. Averaging each image with its mirror image at test time gained "
        f"{summary['flip_at_test_gain'] * 100:+.1f} points over all {len(ablations['rows'])} runs and helped in "
        f"{summary['flip_at_test_wins']} of them."
    )


def record_table(records: Sequence[Mapping[str, Any]], markdown: Markdown) -> str:
    """Runs of tiny_imagenet_record.py, a row a result."""
    rows = []
    for record in records:
        seconds = [row["training_cpu_seconds"] for row in record["rows"]]
        top5 = [row["top5"] for row in record["rows"]]
        crops = [row["top1_ten_crop"] for row in record["rows"] if "top1_ten_crop" in row]
        rows.append(
            [
                f"`{record['rows'][0]['recipe']['name']}`, `{record['model']}`{_changes(record['rows'][0]['recipe'])}",
                f"{record['rows'][0]['parameters'] / 1e6:.2f} M",
                str(len(record["rows"])),
                str(record["rows"][0]["recipe"]["epochs"]),
                f"{record['top1_mean']:.1%}",
                f"{record['top1_spread']:.1%}" if record["top1_spread"] is not None else "–",
                f"{sum(crops) / len(crops):.1%}" if crops else "–",
                f"{sum(top5) / len(top5):.1%}",
                f"{sum(seconds) / len(seconds):.0f}",
                record["hardware"]["cpu"].replace("(R)", "").removesuffix(" Processor"),
            ]
        )
    header = ["", "parameters", "seeds", "epochs", "top-1, flip", "spread", "top-1, ten-crop", "top-5", "CPU s", "of"]
    return markdown(header, rows)


def _changes(recipe: Mapping[str, Any]) -> str:
    """What was changed of a named recipe, besides its epochs."""
    named = named_recipes()[recipe["name"]]
    changed = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recipe.items()
        if name in ("width", "hidden", "dropout", "area")
    }
    return "".join(f", {name} {_word(v)}" for name, v in changed.items() if v != getattr(named, name))
