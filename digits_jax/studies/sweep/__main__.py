"""Trains the runs of a sweep: `python -m digits_jax.studies.sweep --sweep=configs/sweeps/hidden_dropout.py`

Each run has the workdir that `digits_jax.main` would give it, and resumes there. Its result is added to
`<results>/<sweep>/results.jsonl`. Runs that are finished there, in another sweep's results or in a workdir are not
trained again.
"""

import math
import re
import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from absl import flags
from rich.live import Live
from rich.table import Table

from digits_jax import cli
from digits_jax.errors import ConfigError
from digits_jax.storage import enable_compilation_cache, local_folder
from digits_jax.studies.sweep.definition import Sweep, load_sweep

if TYPE_CHECKING:
    from digits_jax.studies.sweep.tasks import Executor, Task

SWEEP = cli.DEFINE_path("sweep", None, "its file, for example configs/sweeps/hidden_dropout.py")
RESULTS = cli.DEFINE_path("results", "runs/sweeps", "folder of the results, one folder per sweep")
RUNS = cli.DEFINE_path("runs", "runs", "folder of the workdirs, as for digits_jax.main; also gs://BUCKET/DIR")
SHARD = flags.DEFINE_string("shard", "0/1", "i/n: train every n-th run from the i-th (from 0) on; for job arrays")
BUDGET = flags.DEFINE_float("budget", None, "minutes after which no run is started", lower_bound=0)
SOURCE = cli.DEFINE_path("source_dir", None, "folder with the original files of the data, if they are not prepared")
cli.DEFINE_code()
PLAN_ONLY = flags.DEFINE_bool("plan_only", False, "print the plan and train nothing")
EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "ray"], "where to train: this process, or a Ray cluster")
RAY_ADDRESS = flags.DEFINE_string("ray_address", None, "HOST:PORT or auto; default: $RAY_ADDRESS, else starts one here")
RAY_CPUS = flags.DEFINE_integer("ray_cpus", None, "CPUs for each run; default: this machine's", lower_bound=1)
RAY_GPUS = flags.DEFINE_integer("ray_gpus", None, "GPUs for each run; default: 1 if there are any", lower_bound=0)


def parse_shard(text: str) -> tuple[int, int]:
    """Parses "i/n", and raises a ConfigError unless 0 <= i < n."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--shard is {text!r}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(found[1]), int(found[2])


def progress_table(sweep: Sweep, tasks: "list[Task]") -> Table:
    """Returns the progress and the accuracy of each variant."""
    header = ("variant", "runs", "accuracy, final epoch", "running")
    view = Table(*header, title=sweep.question, title_justify="left", caption_justify="left", box=None)
    for name in sweep.variants:
        mine = [task for task in tasks if task.run.variant == name]
        finished = [task.accuracy for task in mine if task.accuracy is not None]
        shown = [task for task in mine if task.status.startswith(("epoch", "diverged"))]
        running = [f"seed {task.run.seed}: {task.status.partition(':')[0]}" for task in shown]
        spread = f" +- {100 * statistics.stdev(finished):.2f}" if len(finished) > 1 else ""
        accuracy = f"{100 * statistics.mean(finished):.2f}{spread} %" if finished else ""
        label = f"{name} (baseline)" if name == sweep.baseline else name
        view.add_row(label, f"{len(finished)}/{len(mine)}", accuracy, ", ".join(running))
    left = sum(task.estimate for task in tasks if task.accuracy is None)
    view.caption = f"about {cli.duration(left)} left" if left else None
    return view


def main(argv: list[str]) -> int:
    sweep = load_sweep(cli.required("sweep", "configs/sweeps/hidden_dropout.py"))
    shard, results = parse_shard(SHARD.value), local_folder("results", RESULTS.value)
    deadline = math.inf if BUDGET.value is None else time.time() + 60 * BUDGET.value
    # Imported late, as in `digits_jax.main`.
    from digits_jax.studies.sweep import ray_executor
    from digits_jax.studies.sweep.tasks import Executor, create_tasks, run_tasks

    enable_compilation_cache()
    options = {"shard": shard, "source_dir": SOURCE.value, "code": cli.code_policy()}
    tasks = create_tasks(sweep, results=results, runs=RUNS.value, **options)
    if EXECUTOR.value == "local":
        return train(sweep, tasks, Executor(run_tasks, at_once=1), deadline=deadline)
    resources = {"cpus": RAY_CPUS.value, "gpus": RAY_GPUS.value}
    with ray_executor.connect(RAY_ADDRESS.value, **resources, files=ray_executor.own_files(tasks)) as executor:
        return train(sweep, tasks, executor, deadline=deadline)


def train(sweep: Sweep, tasks: "list[Task]", executor: "Executor", *, deadline: float) -> int:
    """Trains the waiting tasks, shows the progress, and returns the exit code of the command."""
    from digits_jax.runs.interrupts import Interrupted
    from digits_jax.studies.sweep.tasks import estimate, refine

    terminal = cli.Terminal()  # `cli.console` is quiet while a run is trained
    states = Counter(task.status for task in tasks)
    if executor.at_once:
        with terminal.status("measuring each program") if terminal.is_terminal else terminal:
            estimate(tasks, at_once=executor.at_once)
    text = f"{sweep.name}: {len(tasks)} runs, {states['done']} done, {states['reused']} reused from elsewhere"
    seconds = sum(task.estimate for task in tasks)
    if diverged := sum(task.status.startswith("diverged") for task in tasks):
        text += f", {diverged} diverged"
    text += f", {states['waiting']} to train" + (f" in about {cli.duration(seconds)}" if executor.at_once else "")
    terminal.print(text + (f", {executor.at_once} at a time" if executor.at_once > 1 else ""))
    if PLAN_ONLY.value:
        for task in tasks:
            terminal.print(f"{task.status:8} {task.run.variant}, seed {task.run.seed}: {task.run.command}")
        return 0
    resume = f"resume with\n  {cli.again()}"
    end = "" if terminal.is_terminal else "\n"  # of the table
    try:
        with Live(console=terminal, get_renderable=lambda: progress_table(sweep, tasks)):  # or printed at the end
            for task in executor.run(sweep, tasks, deadline):
                if executor.at_once:
                    refine(tasks, at_once=executor.at_once)
                if not terminal.is_terminal:
                    outcome = task.status if task.accuracy is None else cli.percent(task.accuracy)
                    terminal.print(f"{task.run.variant}, seed {task.run.seed}: {outcome}")
    except Interrupted as interrupted:
        terminal.print(f"{end}interrupted and saved; {resume}")
        return interrupted.exit_code
    if waiting := sum(task.status == "waiting" for task in tasks):
        terminal.print(f"{end}stopped after --budget={BUDGET.value:g} minutes, {waiting} runs are left; {resume}")
    else:
        terminal.print(f"{end}results in {tasks[0].results_file if tasks else RESULTS.value}")
    for task in tasks:
        if task.ended:
            print(f"{task.run.variant}, seed {task.run.seed} {task.status}", file=sys.stderr)
    return int(any(task.status.startswith("failed") for task in tasks))  # a divergence is a result


if __name__ == "__main__":
    cli.run(main)
