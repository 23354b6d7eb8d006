# SPDX-License-Identifier: Apache-2.0
"""The verb that measures: a run beside its base model, or models on tasks of lm-eval."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacpt.commands.common import Verb, say, shown
from megacpt.commands.model import is_peft_folder, model_of_run, model_path, one_rank
from megacpt.config.paths import RunFolder
from megacpt.errors import ConfigError

if TYPE_CHECKING:
    from megacpt.config.sections import BenchmarkConfig
    from megacpt.evaluate.folders import Evaluated

GATE_FAILED = 1
NOT_ENOUGH_ITEMS = 3
EXIT_CODES = {"failed": GATE_FAILED, "not enough items": NOT_ENOUGH_ITEMS}
MOST_MODELS = 2
DRAWS_SEED = 0
"""Of the bootstrap."""
OF_FOLDERS = (
    *("task", "include_path", "fewshot", "limit", "metric", "chat", "execute_code"),
    *("device", "dtype", "output"),
)


def _evaluate(arguments: argparse.Namespace) -> int:
    names: list[str] = arguments.names
    if len(names) == 1 and RunFolder(Path(names[0])).run_yaml.is_file():
        _refuse_of_folders(arguments)
        return _evaluate_run(Path(names[0]))
    return _evaluate_folders(arguments)


def _evaluate_run(run_dir: Path) -> int:
    from megacpt.cluster.local import run_local
    from megacpt.config.compose import read_run_yaml
    from megacpt.device.environment import rank_from_environment

    ranks = rank_from_environment()
    if ranks is not None:
        config = read_run_yaml(run_dir / "run.yaml")
        from megacpt.device import variables

        variables.apply(config)
        # It imports torch, so only now.
        from megacpt.train.rank import run_rank

        run_rank(config, ranks=ranks, mode="evaluate")
    else:
        config = model_of_run(run_dir, weights=True)
        code = run_local(Path(config.run_dir), sections=config, mode="evaluate")
        if code != 0:
            return code
    return _say_evaluated(run_dir) if ranks is None or ranks.rank == 0 else 0


def _say_evaluated(run_dir: Path) -> int:
    path = run_dir / "evaluation.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(f"{'held-out set':<24}{'base perplexity':>18}{'final':>12}{'ratio':>10}")
    for name, losses in result["heldout"].items():
        base, final = losses["base"]["perplexity"], losses["final"]["perplexity"]
        print(f"{name:<24}{base:>18.3f}{final:>12.3f}{final / base:>10.4f}")
    _print_benchmarks(result["benchmarks"])
    for check in (*result["gate"], *result["suites"]):
        print(f"Gate: {check['sentence']}")
    if result["declared_late"]:
        from megacpt.config.declared import DECLARED_LATE

        print(f"Gate: {DECLARED_LATE}")
    _log_to_wandb(run_dir, result=result)
    say(f"Wrote {shown(path)}", next_command=f"megacpt export {shown(run_dir)}")
    return EXIT_CODES.get(result["verdict"], 0)


def _log_to_wandb(run_dir: Path, *, result: dict[str, Any]) -> None:
    """A table of the suites, where training has logged to wandb."""
    if not result["suites"] or not (run_dir / "wandb_id").exists():
        return
    from megacpt.config.compose import read_run_yaml
    from megacpt.config.schema import to_tree
    from megacpt.device.environment import beginning_with, has_secret
    from megacpt.monitor.wandb import WandbRun

    config = read_run_yaml(run_dir / "run.yaml")
    run = WandbRun.start(
        run_dir,
        config=to_tree(config),
        monitor=config.monitor,
        has_api_key=has_secret("WANDB_API_KEY"),
        records=[],
        variables=beginning_with("WANDB_"),
    )
    run.log_suites(result["suites"], step=result["step"])
    run.finish()


def _print_benchmarks(benchmarks: dict[str, Any]) -> None:
    if not benchmarks:
        return
    print(f"\n{'benchmark':<24}{'metric':>16}{'items':>8}{'base':>10}{'final':>10}{'gain':>10}")
    for name, found in benchmarks.items():
        base, final = found["base"], found["final"]
        print(
            f"{name:<24}{found['metric']:>16}{found['items']:>8}{base:>10.4f}{final:>10.4f}"
            f"{final - base:>+10.4f}"
        )
    for name, found in benchmarks.items():
        if found["not_decontaminated"]:
            sources = ", ".join(found["not_decontaminated"])
            print(f"{name}: nothing says that its items were taken out of {sources}")


def _refuse_of_folders(arguments: argparse.Namespace) -> None:
    """What a run is measured on was declared before it was trained."""
    # None, False and [] are what is not given; 0 is.
    given = [
        f"--{name.replace('_', '-')}"
        for name in OF_FOLDERS
        if (value := getattr(arguments, name)) or (value == 0 and value is not False)
    ]
    if given:
        raise ConfigError(
            f"{given[0]} is for models, and {arguments.names[0]} is a run, whose benchmarks are "
            "those of evaluate.benchmarks in its run.yaml; leave it out, or export the run and "
            "name the exported folder."
        )


def _evaluate_folders(arguments: argparse.Namespace) -> int:
    _require_no_ranks()
    suites = _suites(arguments)
    folders = [_model_folder(name) for name in arguments.names]
    output: Path = arguments.output or Path("evaluations") / folders[-1].name
    _require_own_output(output)
    with one_rank(device=arguments.device or "auto") as runtime:
        from megacpt.config.sections import Dtype, EvaluateConfig
        from megacpt.evaluate.folders import RESULT, evaluate_folders

        found = evaluate_folders(
            folders,
            evaluate=EvaluateConfig(benchmarks=suites, execute_code=arguments.execute_code),
            dtype=Dtype[arguments.dtype or "bf16"],
            runtime=runtime,
            output=output,
            seed=DRAWS_SEED,
        )
    print(_table(found))
    for check in found.checks:
        print(check.sentence)
    say(
        f"Wrote {shown(output)}/{RESULT}, and a line an item in {shown(output)}/benchmarks",
        next_command=_after_folders(arguments, first=next(iter(suites)), output=output),
    )
    return 0


def _require_no_ranks() -> None:
    from megacpt.device.environment import rank_from_environment

    if rank_from_environment() is not None:
        raise ConfigError(
            "models are evaluated by one process, and this is a rank of several (torchrun's "
            "or srun's variables are set); start megacpt evaluate alone, or measure a run."
        )


def _suites(arguments: argparse.Namespace) -> dict[str, BenchmarkConfig]:
    from megacpt.config.sections import BenchmarkConfig

    if not arguments.task:
        raise ConfigError(
            f"{arguments.names[0]} is not a run folder (it has no run.yaml); a model is asked "
            "tasks: add --task NAME, as in --task arc_easy, which lm-eval ls tasks lists."
        )
    if len(arguments.names) > MOST_MODELS:
        raise ConfigError(
            f"{len(arguments.names)} models were named, and a comparison is of {MOST_MODELS}; "
            "compare each with the first in a command of its own."
        )
    for name in ("fewshot", "limit"):
        if (getattr(arguments, name) or 0) < 0:
            raise ConfigError(f"--{name}={getattr(arguments, name)} is below 0; use 0 or more.")
    configs = [
        BenchmarkConfig(
            task=task,
            include_path=arguments.include_path,
            fewshot=arguments.fewshot,
            limit=arguments.limit or 0,
            metric=arguments.metric,
            chat=arguments.chat,
        )
        for task in arguments.task
    ]
    suites = {Path(c.task).stem if c.names_file else c.task: c for c in configs}
    if len(suites) < len(arguments.task):
        raise ConfigError(
            f"--task names one suite twice ({', '.join(arguments.task)}); give each once."
        )
    return suites


def _model_folder(name: str) -> Path:
    folder = Path(name)
    if RunFolder(folder).run_yaml.is_file():
        raise ConfigError(
            f"{name} is a run; beside another model, name what it exported: megacpt export {name}"
        )
    if is_peft_folder(folder):
        raise ConfigError(
            f"{name} is an adapter, and whole models are evaluated; merge it first: "
            f"megacpt merge --adapter {name} --output {name}-merged"
        )
    return model_path(name, weights=True)


def _require_own_output(output: Path) -> None:
    if RunFolder(output).run_yaml.is_file():
        raise ConfigError(
            f"--output {shown(output)} is a run folder, whose own measurements are there; name "
            "another folder."
        )


def _after_folders(arguments: argparse.Namespace, *, first: str, output: Path) -> str:
    """``first``: of the suites."""
    if len(arguments.names) == MOST_MODELS:
        return shlex.join(["less", f"{shown(output)}/benchmarks/final/{first}.jsonl"])
    tasks = [word for task in arguments.task for word in ("--task", task)]
    return shlex.join(["megacpt", "evaluate", arguments.names[0], "OTHER_MODEL", *tasks])


def _table(found: Evaluated) -> str:
    first = found.models[0]
    heads = ("score",) if len(found.models) == 1 else ("first", "second")
    rows = [f"{'benchmark':<28}{'metric':>16}{'items':>8}{''.join(f'{h:>10}' for h in heads)}"]
    for name, suite in first.items():
        scores = "".join(f"{model[name].mean:>10.4f}" for model in found.models)
        rows.append(f"{name:<28}{suite.metric:>16}{suite.num_items:>8}{scores}")
    return "\n".join(rows)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="+",
        metavar="RUN_DIR|MODEL",
        help="folder of a run; or one or two models, as Hugging Face folders or hub ids",
    )
    models = parser.add_argument_group("of models alone")
    models.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="a task of lm-eval, or a YAML file of one; can be given several times",
    )
    models.add_argument("--include-path", metavar="FOLDER", help="folder of more tasks")
    models.add_argument("--fewshot", type=int, metavar="N", help="solved examples before each item")
    models.add_argument("--limit", type=int, metavar="N", help="items of each task (default: all)")
    models.add_argument("--metric", metavar="NAME", help="which of the tasks' metrics")
    models.add_argument("--chat", action="store_true", help="items in the chat template")
    models.add_argument(
        "--execute-code",
        action="store_true",
        help="allow tasks that run the code which the model writes",
    )
    models.add_argument("--device", choices=("auto", "cpu", "gpu"), help="default: auto")
    models.add_argument("--dtype", choices=("bf16", "fp32"), help="default: bf16")
    models.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: evaluations/NAME_OF_LAST_MODEL"
    )


EVALUATE = Verb(
    name="evaluate",
    summary="measure a run beside its base, or models: benchmarks, held-out sets, gate",
    example="  megacpt evaluate runs/tiny\n"
    "  megacpt evaluate runs/tiny/hf --task arc_easy --limit 200\n"
    "  megacpt evaluate BASE_MODEL OTHER_MODEL --task mmlu --fewshot 5\n"
    "Exit codes of a run: 1: a limit of the gate (evaluate.gate) is exceeded; 3: none\n"
    "is, but suites have not enough items to say that all are kept.",
    add_arguments=_arguments,
    run=_evaluate,
)
