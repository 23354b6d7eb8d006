# SPDX-License-Identifier: Apache-2.0
"""Train the quickstart workload under each emulated recipe and print its distance from bf16.

    python tools/quickstart.py                  # once: makes quickstart/model and quickstart/data
    python tools/bench/precision.py [--work FOLDER] [RECIPE ...]

Every recipe takes the same steps on the same samples from the same weights. The gap is that of the
training loss over the last half of the steps and of the held-out domain text after them, relative
to bf16. Results lie in FOLDER, one file a recipe; those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from megacpt.config.compose import compose
from megacpt.config.sections import DeviceKind, Recipe, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import RankInfo
from megacpt.device.quiet import quiet_libraries

HELDOUT_TOKENS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/bench_precision"))
    parser.add_argument("--experiment", default="quickstart")
    parser.add_argument("recipes", nargs="*", default=[recipe.name for recipe in Recipe])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    results = {name: _result(name, arguments) for name in arguments.recipes}
    _print_table(results)


def _result(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    path = arguments.work / f"{arguments.experiment}-{name}.json"
    if not path.exists():
        overrides = [f"experiment={arguments.experiment}", f"run_dir={arguments.work / name}"]
        config = compose([*overrides, "precision=bf16", f"precision.recipe={name}"])
        path.write_text(json.dumps(_train(config)))
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _train(config: RunConfig) -> dict[str, Any]:
    """Losses and seconds of all steps, then the loss on held-out text."""
    config.cluster.device = DeviceKind.cpu
    rank_runtime = runtime.start(RankInfo(), cluster=config.cluster)
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel
    from megacpt.evaluate.heldout import measure_all
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.assembly import assemble
    from megacpt.train.batches import read_batches
    from megacpt.train.step import forward_backward, gradient_norm, update

    domain = str(config.evaluate.domain)
    config.evaluate.heldout = {domain: config.evaluate.heldout[domain]}
    config.evaluate.heldout[domain].max_tokens = HELDOUT_TOKENS
    initialise_parallel(config.parallel, seed=config.seed)
    run, device = assemble(config, runtime=rank_runtime), rank_runtime.device
    losses, cpu_s = [], []
    optimizer, optim, schedule = run.state.optimizer, config.optim, config.schedule
    last = schedule.steps
    with read_batches(run.data, first_step=1, last_step=last, device=device) as batches:
        for step in range(1, last + 1):
            started_s = time.process_time()
            sums = forward_backward(run.state, batch=batches.take(step), device=device)
            norm, lr = gradient_norm(optimizer), learning_rate(step, optim=optim, schedule=schedule)
            update(optimizer, norm=norm, lr=lr, optim=optim)
            cpu_s.append(time.process_time() - started_s)
            losses.append(sums.mean_loss)
            print(f"step {step} loss {losses[-1]:.5f} {cpu_s[-1]:.1f} s of CPU", flush=True)
    sets = run.measure.heldout
    heldout = measure_all(run.state.chunks, sets=sets, micro_batch_size=1, device=device)
    parallel_state.destroy_model_parallel()
    runtime.stop()
    return {"losses": losses, "cpu_s": cpu_s, "heldout": heldout[domain]["loss"]}


def _print_table(results: dict[str, dict[str, Any]]) -> None:
    print("| recipe | loss, last half | gap | held-out loss | gap | CPU time of a step |")
    print("|---|--:|--:|--:|--:|--:|")
    base = results.get(Recipe.none.name)
    for name, result in results.items():
        loss, heldout, cpu_s = _figures(result)
        gaps, time_cell = ["", ""], f"{cpu_s:.1f} s"
        if base is not None and result is not base:
            base_loss, base_heldout, base_cpu_s = _figures(base)
            gaps = [f"{loss / base_loss - 1:+.2%}", f"{heldout / base_heldout - 1:+.2%}"]
            time_cell = f"x {cpu_s / base_cpu_s:.2f}"
        shown = "bf16" if name == Recipe.none.name else name
        print(f"| {shown} | {loss:.4f} | {gaps[0]} | {heldout:.4f} | {gaps[1]} | {time_cell} |")


def _figures(result: dict[str, Any]) -> tuple[float, float, float]:
    """Mean loss of the last half of the steps, held-out loss, median seconds of a step."""
    losses = result["losses"]
    return mean(losses[len(losses) // 2 :]), result["heldout"], median(result["cpu_s"])


if __name__ == "__main__":
    main()
