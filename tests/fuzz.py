"""Feeds mutated files of a run and of a sweep to whatever reads them: `python -m tests.fuzz --mutations=2000`

Each mutation changes one value, name, line or byte of a file. Whatever reads the file then has to return a result or
raise an error of one line. Prints a JSON object: how often which came, what broke, and the peak memory.
"""

import contextlib
import json
import os
import random
import re
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from PIL import Image

from digits_jax import cli, data, load_model, storage
from digits_jax.apps.evaluate.evaluation import evaluate
from digits_jax.apps.evaluate.page import write_evaluation
from digits_jax.apps.reader.digit_reader import DigitReader
from digits_jax.apps.reader.pictures import to_pixels
from digits_jax.errors import UserError
from digits_jax.pages import to_html
from digits_jax.runs.workdir import Workdir
from digits_jax.studies.report.page import build_page
from digits_jax.studies.report.study import create_study
from digits_jax.studies.results import read_results

RUN = flags.DEFINE_string("run", None, "the folder of a finished run")
RESULTS = flags.DEFINE_string("results", None, "the `results.jsonl` of a sweep")
MUTATIONS = flags.DEFINE_integer("mutations", 2000, "how many")
SEED = flags.DEFINE_integer("seed", 0, "of the mutations")

_VALUES: list[Any] = [
    None, True, 0, -1, 1, 0.5, -1e308, 2**31, 2**62, 10**30, float("nan"), float("inf"), "", " ", "0", "x" * 20_000,
    "../../evil", "/evil", "gs://evil/x", "evil\n", "\u0000", "<script>alert(1)</script>", "](javascript:alert(1))", [],
    {}, [[]], [0] * 5000, {"a": {"b": 1}}, ["28", 28, 1], [1, 2],
]  # fmt: skip


def deep(levels: int = 2000) -> str:
    return "[" * levels + "]" * levels


def mutate_json(text: str, draw: random.Random) -> str:
    """Changes one line of JSON: a value, a name, or some bytes."""
    if draw.random() < 0.15:
        return mutate_text(text, draw)
    content = json.loads(text)
    spots: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(content)
    node, key = draw.choice(spots)
    action = draw.random()
    if action < 0.15:
        del node[key]
    elif action < 0.2 and isinstance(node, dict):
        node[draw.choice(["x", "", "config", "__class__", "../x"])] = node.pop(key)
    elif action < 0.25:
        node[key] = "DEEP"
    else:
        node[key] = draw.choice(_VALUES)
    return json.dumps(content).replace('"DEEP"', deep())


def mutate_text(text: str, draw: random.Random) -> str:
    place, other = draw.randrange(len(text) or 1), draw.choice('{}[],:"0-\x00\u00b2')
    return draw.choice([
        text[:place], text[place:], text[:place] + other + text[place + 1 :], "", "5", '"x"', text + text, deep(),
        text[:place] + text[place + draw.randint(1, 40) :],
    ])  # fmt: skip


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) or 1)
    return draw.choice([content[:place], content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :], b""])


def mutate_run(run: Path, work: Path, draw: random.Random) -> tuple[str, Callable[[], object]]:
    """Mutates a file of a copy of a run; returns its name and what reads it."""
    target = work / "run"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run, target)
    folder = Workdir(target)
    folder.read_run()
    step = max(folder.checkpoints.iterdir(), key=lambda path: int(path.name))
    inside = sorted(path.relative_to(target) for path in step.rglob("*") if path.is_file() and path.stat().st_size)
    name = draw.choice([Path("run.json")] * 6 + [Path("result.json")] * 6 + [Path("metrics.jsonl"), *inside])
    file = target / name
    try:
        file.write_text(mutate_json(file.read_text(), draw))
    except ValueError:  # it is no JSON
        file.write_bytes(mutate_bytes(file.read_bytes(), draw))
    # As a stranger would, who wants to be believed.
    if name in inside and name.name != storage.MANIFEST:
        storage.write_manifest(step, folder.identity)
    elif name.name == "run.json":
        with contextlib.suppress(UserError):
            folder.read_run()
            for step in folder.checkpoints.iterdir():
                storage.write_manifest(step, folder.identity)
    elif name.name == "result.json":
        with contextlib.suppress(ValueError, RecursionError, AttributeError):
            content = json.loads(file.read_text())
            content.pop("checksum", None)
            file.write_text(json.dumps(content))
    checkpoint = draw.choice(["best", "latest"])
    if draw.random() < 0.02:
        return f"predict: {name.name}", lambda: predict(target)
    if draw.random() < 0.02:
        return f"evaluate: {name.name}", lambda: score(target, work)
    return f"load_model: {name.name}", lambda: load_model(target, checkpoint=checkpoint)


def predict(run: Path) -> None:
    DigitReader(load_model(run), None).read(to_pixels(Image.new("L", (40, 40), 200)))


def score(run: Path, work: Path) -> None:
    model, dataset = load_model(run), data.load("optical_digits", train_examples=100)
    write_evaluation(evaluate(model, dataset), model, dataset, work)


def mutate_results(results: str, work: Path, draw: random.Random) -> tuple[str, Callable[[], object]]:
    """Mutates a line of a sweep's results; returns a name and what makes a report of them."""
    lines = results.splitlines()
    number = draw.choice([0, draw.randrange(len(lines))])
    lines[number] = mutate_json(lines[number], draw)
    file = work / "results.jsonl"
    file.write_text("\n".join(lines) + "\n")

    def report() -> None:
        study = create_study(read_results([file]))
        markdown, _ = build_page(study)
        to_html(markdown, {})

    return "report: results.jsonl", report


def peak_memory() -> int:
    """Returns the largest resident size of this process in MB. That of `getrusage` may be its parent's."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def main(argv: list[str]) -> int:
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.FATAL)
    counts, broken = Counter[str](), []
    results = Path(RESULTS.value).read_text()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("work", "home", "here"):
            (root / name).mkdir()
        os.environ["HOME"] = str(root / "home")
        os.chdir(root / "here")
        for number in range(MUTATIONS.value):
            if number % 100 == 0:
                jax.clear_caches()  # each model that is loaded is another program
            draw = random.Random(f"{SEED.value} {number}")
            if number % 2:
                name, read = mutate_run(Path(RUN.value), root / "work", draw)
            else:
                name, read = mutate_results(results, root / "work", draw)
            try:
                read()
                counts[f"{name} a result"] += 1
            except UserError as error:
                counts[f"{name} one line"] += 1
                if "\n" in str(error) or len(str(error)) > 1010:
                    broken.append(f"{number} {name}: {error}")
            except Exception:
                broken.append(f"{number} {name}: {traceback.format_exc()[-1500:]}")
            if strange := sorted({path.name for path in root.iterdir()} - {"work", "home", "here"}):
                broken.append(f"{number} {name}: wrote {strange}")
        written = sorted(str(path) for path in (root / "here").rglob("*"))
    print(json.dumps({"outcomes": counts, "broken": broken, "written": written, "peak_mb": peak_memory()}, indent=1))
    return int(bool(broken or written))


if __name__ == "__main__":
    cli.run(main)
