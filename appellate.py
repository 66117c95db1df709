"""The command line. Each verb is a few lines over the packages."""

import contextlib
import json
import shutil
import sys
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Train language models on their own judgement.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
Profile = Annotated[str | None, typer.Option(help="cpu or gpu; found out when not given.")]
Assignments = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings, e.g. iterations=2")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; a local one is started when not given.")]


def _fail(message: str, code: int, as_json: bool) -> typer.Exit:
    if as_json:
        sys.stdout.write(json.dumps({"error": message}) + "\n")
    else:
        err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    return typer.Exit(code)


def _one_line(error: Exception, limit: int = 2000) -> str:
    """Kind and message; of a long message the end, where Ray and vLLM put the cause."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= limit else '...' + text[-limit:]}"


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file with a `recipe:` line.")],
    assignments: Assignments = None,
    profile: Profile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe: sample, judge, select, train, update the live models; as many iterations as asked."""
    from pipelines.config import ConfigError, absolute_paths, dump, resolve
    from pipelines.plan import resource_plan

    try:
        config = resolve(recipe, assignments or [], profile)
    except ConfigError as error:
        raise _fail(str(error), 2, as_json) from None
    if dry_run:
        _print_plan({"config": dump(config), "plan": resource_plan(config)}, as_json)
        return
    from pipelines.ledger import Ledger
    from pipelines.manifest import make_manifest

    config = absolute_paths(config)  # the run may be resumed from another directory
    manifest = make_manifest(config)
    with _making_a_run(config.runs_dir, as_json):
        ledger = Ledger.create(config.runs_dir, config.name, dump(config), manifest)
    _execute(config, ledger, as_json, created=True)


@app.command()
def train(
    pairs: Annotated[str, typer.Option(help="JSONL, Parquet, or a Hugging Face data set folder or name.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder, hub name or alias.")],
    assignments: Assignments = None,
    profile: Profile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train on preference data of any origin: DPO, or other losses, and no models beside the trainer."""
    from pipelines.config import ConfigError
    from pipelines.plan import training_plan
    from pipelines.training.alone import new_training, resolve_train

    try:
        config = resolve_train(pairs, model, assignments or [], profile)
    except ConfigError as error:
        raise _fail(str(error), 2, as_json) from None
    if dry_run:
        _print_plan({"config": config.model_dump(mode="json"), "plan": training_plan(config.training)}, as_json)
        return
    with _making_a_run(config.runs_dir, as_json):
        config, ledger = new_training(config)
    _execute(config, ledger, as_json, created=True)


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(plan)
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))


@contextlib.contextmanager
def _making_a_run(runs_dir: str, as_json: bool) -> Generator[None]:
    from pipelines.ledger import LedgerError

    try:
        yield
    except LedgerError as error:
        raise _fail(str(error), 2, as_json) from None
    except (OSError, ValueError) as error:  # pyarrow's errors for a URI it cannot use are ValueErrors
        raise _fail(f"runs_dir={runs_dir}: no run can be made there: {_one_line(error)}", 2, as_json) from None


@app.command()
def resume(run_folder: Annotated[str, typer.Argument(help="The run's folder.")], as_json: Json = False) -> None:
    """Go on with a run that was stopped or killed; a finished run is left as it is."""
    from pipelines.config import ConfigError
    from pipelines.ledger import Ledger, LedgerError

    try:
        ledger = Ledger.open(run_folder)
        summary = ledger.finished()
        if summary is None:
            config = _stored_config(ledger)
    except (LedgerError, ConfigError) as error:
        raise _fail(str(error), 2, as_json) from None
    except (OSError, ValueError) as error:
        raise _fail(f"{run_folder}: cannot be read: {_one_line(error)}", 2, as_json) from None
    if summary is not None:
        if as_json:
            _print_json({**summary, "nothing_to_do": True})
        else:
            out.print(f"{ledger.path} is finished; nothing to do", markup=False, soft_wrap=True)
        return
    _execute(config, ledger, as_json)


def _stored_config(ledger: Any) -> Any:
    """The configuration a run was made with; raises ConfigError when it, or the data, are not what they were."""
    import yaml

    from pipelines.config import ConfigError, RunConfig, data_files, load_dump
    from pipelines.manifest import check_unchanged
    from pipelines.training.alone import is_training, load_train

    file = f"{ledger.path}/config.yaml"
    try:
        data = ledger.read_config()
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())[:500]}") from None
    alone = isinstance(data, dict) and is_training(data)
    if not alone and not (isinstance(data, dict) and isinstance(data.get("recipe"), str)):
        raise ConfigError(f"{file}: damaged, it holds no settings with a recipe; restore it or start another run")
    try:
        config = load_train(data) if alone else load_dump(data)
    except ConfigError as error:
        raise ConfigError(f"{file} is of another version: {error}") from None
    manifest = ledger.read_manifest()
    if isinstance(config, RunConfig):
        check_unchanged(config.prompts, manifest.get("prompts_hash"))
        for name, source in data_files(config).items():
            check_unchanged(source, manifest.get("data_hashes", {}).get(name))
    elif ledger.done(0, "pairs") is None:  # afterwards the run has the pairs itself
        check_unchanged(config.pairs, manifest.get("pairs_hash"))
    return config


def _execute(config: Any, ledger: Any, as_json: bool, created: bool = False) -> None:
    """Drive a run to its end with a live display; errors become one line and an exit code.

    A run that this command `created` and that its input keeps from starting leaves no folder that would hold its name.
    """
    import pipelines.loop as loop
    from actors.chat import ChatFormatError
    from actors.checkpoints import CheckpointError
    from cluster.output import captured_output, log_of
    from pipelines.ledger import LedgerError
    from pipelines.progress import RunProgress
    from pipelines.reporting.terminal import print_summary, print_training
    from pipelines.steps.make_prompts import InputError
    from pipelines.training import alone

    only_train = isinstance(config, alone.TrainConfig)
    try:
        with captured_output(log_of(ledger.path)) as terminal, RunProgress(Console(file=terminal), as_json) as progress:
            summary = (alone.execute_train if only_train else loop.execute)(config, ledger, progress)
    except (InputError, CheckpointError, ChatFormatError) as error:
        if created and "://" not in ledger.path and not ledger.iterations():
            shutil.rmtree(ledger.path, ignore_errors=True)
        raise _fail(str(error), 2, as_json) from None
    except KeyboardInterrupt:
        raise _fail(f"stopped; go on with: appellate resume {ledger.path}", 1, as_json) from None
    except Exception as error:
        trace = traceback.format_exc()[-20_000:]
        try:
            with ledger.lock():  # a run that another process drives is not this one's to write into
                ledger.event("failed", error=repr(error)[:5000], traceback=trace)
        except LedgerError:
            if isinstance(error, LedgerError):
                raise _fail(str(error), 2, as_json) from None
        except OSError:
            pass  # a full disk is likely the very error that is reported below
        text = f"{type(error).__name__}: {str(error)[-3000:]}\ngo on with: appellate resume {ledger.path}"
        raise _fail(text, 1, as_json) from None
    if as_json:
        _print_json(summary)
    else:
        (print_training if only_train else print_summary)(out, summary)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="Checkpoint folder, hub name or alias.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; the first free one from 8000 when not given.")] = None,
    profile: Profile = None,
    address: Address = None,
) -> None:
    """Put a checkpoint behind the judge's HTTP endpoint until Ctrl-C."""
    from actors.checkpoints import CheckpointError, resolve_model
    from pipelines.config import ConfigError
    from serve.standalone import serve_model, settings

    try:
        models, http = settings(host, port, profile)
        folder = resolve_model(model)
    except (ConfigError, CheckpointError) as error:
        raise _fail(str(error), 2, False) from None
    try:
        serve_model(folder, models, http, address, out)
    except KeyboardInterrupt:
        out.print("stopped")
    except Exception as error:
        raise _fail(_one_line(error), 1, False) from None


@app.command()
def judge(
    prompt: Annotated[str, typer.Option(help="What the user asked.")],
    response: Annotated[list[str], typer.Option(help="A response; give the option several times.")],
    url: Annotated[str, typer.Option(help="The judge's address.")] = "http://127.0.0.1:8000",
    votes: Annotated[int, typer.Option(min=1, max=32)] = 3,
    as_json: Json = False,
) -> None:
    """Ask a live judge about one or more responses."""
    import httpx

    body = {"prompt": prompt, "responses": response, "votes": votes}
    try:
        # A proxy of the environment is for other hosts: its own loopback is not this one's.
        proxy = httpx.URL(url).host not in ("localhost", "127.0.0.1", "::1")
        reply = httpx.post(f"{url.rstrip('/')}/v1/judgements", json=body, timeout=600, trust_env=proxy)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _fail(f"no judge at {url}: {error}; start one with `appellate serve --model ...`", 1, as_json) from None
    if reply.status_code != 200:
        code = 2 if 400 <= reply.status_code < 500 else 1
        raise _fail(f"the judge answered {reply.status_code}: {' '.join(reply.text[:1000].split())}", code, as_json)
    try:
        answer = reply.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not {"protocol", "votes", "abstained", "scores"} <= answer.keys():
        said = " ".join(reply.text[:200].split())
        raise _fail(f"what answers at {url} is no judge, it said: {said}", 1, as_json)
    if as_json:
        _print_json(answer)
        return
    title = f"{answer['protocol']} · {answer['weight_version']}"
    table = Table("vote", "about", "order", "status", "says", title=title)
    for number, vote in enumerate(answer["votes"]):
        says = vote["score"] if vote["score"] is not None else vote["verdict"]
        table.add_row(str(number), str(vote["responses"]), str(vote["order"]), vote["status"], str(says))
    out.print(table)
    if answer["abstained"]:
        out.print(f"abstained: {answer['reason']}")
    elif answer["scores"] is not None:
        out.print(f"scores {answer['scores']}, winner {answer['winner']}")
    else:
        out.print(f"winner {answer['winner']}, confidence {answer['confidence']:.2f}")


@app.command()
def replay(
    recipe: Annotated[str, typer.Argument(help="A recipe's name.")],
    groups: Annotated[Path, typer.Option(help="Parquet file of groups.")],
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file of pairs to write.")],
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Parse, aggregate and select again from recorded texts, with no model."""
    from pipelines.config import ConfigError
    from pipelines.replay import InputError
    from pipelines.replay import replay as replay_groups

    if out_file.is_dir():
        raise _fail(f"--out {out_file}: is a folder; name a Parquet file", 2, as_json)
    try:
        result = replay_groups(recipe, str(groups), str(out_file), assignments or [])
    except (ConfigError, InputError) as error:
        raise _fail(str(error), 2, as_json) from None
    except OSError as error:
        raise _fail(f"{groups} or --out {out_file} cannot be used: {_one_line(error)}", 2, as_json) from None
    _print_json(result)


@app.command(name="eval")
def evaluate(
    name: Annotated[str, typer.Argument(help="An evaluation's name; `appellate eval list` lists them.")],
    assignments: Assignments = None,
    data: Annotated[Path | None, typer.Option(help="The rows: JSONL, JSON or Parquet.")] = None,
    judge: Annotated[str | None, typer.Option(
        help="Who is asked: a run's folder, a checkpoint, or a URL. Also the model that answers, where one is measured."
    )] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="JSON file to write the result to as well.")] = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Measure a judge, a model or recorded annotations on labelled data: value, interval, n, abstentions."""
    from actors.chat import ChatFormatError
    from actors.checkpoints import CheckpointError
    from cluster.output import cached_log, captured_output
    from pipelines.config import ConfigError
    from pipelines.evaluation.command import evaluations, measure
    from pipelines.ledger import LedgerError
    from pipelines.reporting.terminal import print_evaluation
    from pipelines.steps.rows import InputError

    if name == "list":
        table = Table("evaluation", "judge", "what it measures")
        for row in evaluations():
            table.add_row(*row)
        out.print(table)
        return
    if data is None:
        raise _fail("--data FILE is needed: the rows to evaluate on", 2, as_json)
    log = cached_log("eval")
    try:
        with captured_output(log) if judge else contextlib.nullcontext():
            result = measure(name, str(data), judge, assignments or [], profile)
        if out_file is not None:
            out_file.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except (ConfigError, InputError, CheckpointError, ChatFormatError, LedgerError) as error:
        raise _fail(str(error), 2, as_json) from None
    except KeyboardInterrupt:
        raise _fail("stopped", 1, as_json) from None
    except Exception as error:
        raise _fail(_one_line(error) + (f"; log: {log}" if judge else ""), 1, as_json) from None
    if as_json:
        _print_json(result.model_dump(mode="json"))
    else:
        print_evaluation(out, result)


@app.command()
def report(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, a path or s3://...")],
    out_file: Annotated[Path | None, typer.Option("--out", help="HTML file; RUN/report.html when not given.")] = None,
    as_json: Json = False,
) -> None:
    """The run as one HTML file that loads nothing: learning, judge, pairs, cost, problems, and every sample."""
    from pipelines.reporting.page import report_page
    from pipelines.reporting.view import RunView

    with _reading_a_run(run_folder, as_json) as ledger:
        view = RunView(ledger)
        view.refresh()
        page = report_page(view)
        if out_file is None:
            where = ledger.write_report(page)
        else:
            where = str(out_file)
            out_file.write_bytes(page)
    if as_json:
        _print_json({"report": where, "bytes": len(page)})
    else:
        out.print(f"{where}, {len(page) / 2**20:.1f} MB", markup=False, soft_wrap=True)


@app.command()
def explain(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, a path or s3://...")],
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Of a pair, sample, judgement, prompt; or its start.")],
    as_json: Json = False,
) -> None:
    """Trace a record to what it was made from, the rule that chose it, and the steps that trained on it."""
    from pipelines.reporting import explain as tracing
    from pipelines.reporting.lineage import UnknownRecord

    with _reading_a_run(run_folder, as_json) as ledger:
        try:
            found = tracing.explain(ledger, record_id)
        except UnknownRecord as error:
            raise _fail(str(error), 2, as_json) from None
    if as_json:
        _print_json(found)
    else:
        tracing.print_explained(out, found)


@app.command()
def watch(
    target: Annotated[str, typer.Argument(metavar="RUN|URL", help="The run's folder, or its judge's address.")],
    page: Annotated[bool, typer.Option("--page", help="Serve the live page of a run's folder on this host.")] = False,
    port: Annotated[int, typer.Option(help="Of the page.")] = 8800,
    as_json: Json = False,
) -> None:
    """See a run while it goes on: on the terminal, or as a page; a run's judge serves the same page at /run."""
    from pipelines.reporting.watch import WatchError, look_at
    from pipelines.reporting.watch import watch as watch_run

    with _reading_a_run(target, as_json, opened=page) as ledger:
        try:
            if page:
                import uvicorn

                from serve.watch import page_app

                where = f"http://127.0.0.1:{port}/run"
                out.print(f"{ledger.path} at {where}, stop with Ctrl-C", markup=False, soft_wrap=True)
                uvicorn.run(page_app(ledger.path), host="127.0.0.1", port=port, log_level="warning")
            elif as_json:
                _print_json(look_at(target)())
            else:
                watch_run(out, look_at(target))
        except WatchError as error:
            raise _fail(str(error), 1, as_json) from None
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


@contextlib.contextmanager
def _reading_a_run(run_folder: str, as_json: bool, opened: bool = True) -> Generator[Any]:
    """The run's ledger, or None where it is not `opened`; a run that cannot be read becomes one line."""
    from pipelines.ledger import Ledger, LedgerError

    try:
        yield Ledger.open(run_folder) if opened else None
    except LedgerError as error:
        raise _fail(str(error), 2, as_json) from None
    except (OSError, ValueError) as error:
        raise _fail(f"{run_folder}: {_one_line(error)}", 2, as_json) from None


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Argument(help="A recipe or YAML file whose plan is checked too.")] = None,
    assignments: Assignments = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Check versions, model, memory, shared memory, ports and left-over engines, and say what to do."""
    from cluster.doctor import diagnose
    from pipelines.config import ConfigError, resolve

    try:
        checks = diagnose(resolve(recipe, assignments or [], profile) if recipe else None, profile)
    except ConfigError as error:
        raise _fail(str(error), 2, as_json) from None
    if as_json:
        _print_json([vars(check) for check in checks])
    else:
        table = Table("check", "", "found", "what to do")
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for check in checks:
            table.add_row(check.name, f"[{colours[check.status]}]{check.status}[/]", check.found, check.advice)
        out.print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@app.command()
def down(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's name; all when not given.")] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Stop runs of this host, and with --address their applications on a cluster; nothing stays behind."""
    from cluster.down import DownError, take_down

    try:
        result = take_down(run_name, address)
    except DownError as error:
        raise _fail(str(error), 1, as_json) from None
    if as_json:
        _print_json(result)
    else:
        stopped = len(result["drivers"]) + len(result["processes"])
        out.print(f"stopped {stopped} processes, deleted {len(result['applications'])} applications")
    if result["survivors"]:
        raise _fail(f"still alive: {result['survivors']}", 1, as_json)


if __name__ == "__main__":
    app()
