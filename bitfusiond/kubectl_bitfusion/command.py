"""``kubectl-bitfusion``: what kubectl runs for ``kubectl bitfusion``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import NoReturn

import yaml

from bitfusiond import __version__, cli
from bitfusiond.core.diagnosis.finding import State
from bitfusiond.core.fields import Json
from bitfusiond.core.text import one_line
from bitfusiond.core.usage import usage
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.kubectl_bitfusion import completion, options, status, tables, target, terminal, usage_tables, why
from bitfusiond.kubectl_bitfusion.reader import Reader
from bitfusiond.kubectl_bitfusion.tables import printable
from bitfusiond.operate import overlays, settings
from bitfusiond.operate.report import NOTE, OK, WRONG
from bitfusiond.operate.verify import command as verify

WATCH_SECONDS = 3.0
_STATES = {State.GOOD: OK, State.BAD: WRONG, State.UNKNOWN: NOTE}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; `{self.prog} --help` lists what is allowed")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 = done, or it runs; 1 = it does not, or failed; 2 = wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    terminal.prepare()
    # The one file that `just build` makes has a link to it.
    if arguments is None and Path(sys.argv[0]).name == completion.PROGRAM:
        return completion.main(words)
    try:
        return terminal.flushed(lambda: _run(words))
    except Failure as error:
        _complain(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads us has enough (`| head`).
        terminal.forget()
        return 1
    except OSError as error:
        terminal.forget()
        sys.stderr.write(f"kubectl bitfusion: the answer cannot be written: {error.strerror}\n")
        return 1


def _complain(error: Failure) -> None:
    sys.stderr.write(f"kubectl bitfusion: {printable(one_line(str(error)))}\n")


def _run(words: list[str]) -> int:
    given = options.split(words)
    match given.command:
        case "status":
            return _status(given)
        case "why":
            return _why(given)
        case "check":
            return _check(given)
        case "render":
            return cli.main(["--role", "render", *given.rest])
    parser = _parser("", "")
    parser.add_argument("--version", action="version", version=f"kubectl-bitfusion {__version__}")
    parser.add_argument("command", choices=list(options.COMMANDS), metavar="COMMAND")
    parser.parse_args(given.rest)
    raise ConfigurationError("name a command")


def _parser(command: str, words: str) -> _Parser:
    """With what :func:`options.split` has taken away already, for --help."""
    listed = "\n".join(f"  {name:8} {summary}" for name, summary in options.COMMANDS.items())
    parser = _Parser(
        prog=f"kubectl bitfusion {command}".strip(),
        usage=f"kubectl bitfusion {command or 'COMMAND'} {words}[options]",
        description=options.COMMANDS.get(command, f"commands:\n{listed}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    of = parser.add_argument_group("which cluster, before the command or behind it")
    for flag, summary in options.CLUSTER.items():
        of.add_argument(flag, help=summary)
    of.add_argument(*options.NAMESPACE, help="the namespace; without it that of the context")
    return parser


def _output(parser: _Parser) -> None:
    parser.add_argument(*options.OUTPUT, choices=options.OUTPUTS, default="table", help="the form of the answer")


def _status(given: options.Split) -> int:
    parser = _parser("status", "")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="the pods and quotas of all namespaces")
    parser.add_argument("-w", "--watch", action="store_true", help="go on, and print again what has changed")
    _output(parser)
    chosen = parser.parse_args(given.rest)
    kubectl = options.kubectl(given.chosen)
    namespace = "" if chosen.all_namespaces else options.namespace(kubectl, given.chosen)
    reader = Reader(kubectl)
    if chosen.watch:
        _watch(lambda: status.read(reader, namespace), chosen.output)
    _show(status.read(reader, namespace), chosen.output)
    return 0


def _watch(read: Callable[[], usage.Usage], form: str) -> NoReturn:
    """Go on for ever; a request that fails when one has succeeded is said once, and tried again."""
    last, failure = None, ""
    while True:
        try:
            found = read()
        except Failure as error:
            if last is None:
                raise
            if failure != str(error):
                _complain(error)
            failure = str(error)
        else:
            if found != last or failure:
                _show_at(datetime.now(UTC), found, form)
            last, failure = found, ""
        sleep(WATCH_SECONDS)


def _show_at(now: datetime, found: usage.Usage, form: str) -> None:
    """One of several, each of which begins with its time, or as a document of its own."""
    if form == "table":
        _say(f"{now:%Y-%m-%dT%H:%M:%SZ}")
    elif form == "yaml":
        sys.stdout.write("---\n")
    _show(found, form)


def _show(found: usage.Usage, form: str) -> None:
    if form == "table":
        tables.show(usage_tables.tables(found), usage_tables.lines(found))
    else:
        _print(usage.document(found), form)


def _print(document: Json, form: str) -> None:
    # Both write as an escape what a terminal would obey.
    text = f"{json.dumps(document, indent=2)}\n" if form == "json" else yaml.safe_dump(document, sort_keys=False)
    sys.stdout.write(text)
    sys.stdout.flush()


def _why(given: options.Split) -> int:
    parser = _parser("why", "POD|TYPE/NAME ")
    parser.add_argument("target", metavar="POD|TYPE/NAME", help="a pod, or what makes pods: deployment/my-app")
    _output(parser)
    chosen = parser.parse_args(given.rest)
    asked = target.parse(chosen.target)
    kubectl = options.kubectl(given.chosen)
    answer = why.run(Reader(kubectl), options.namespace(kubectl, given.chosen), asked)
    if chosen.output == "table":
        _tell(answer)
    else:
        _print(_document(answer), chosen.output)
    return 0 if answer.runs else 1


def _tell(answer: why.Answer) -> None:
    lines = [f"{answer.subject} in {answer.namespace}"]
    for each in answer.findings:
        lines.append(f"{_STATES[each.state]:5}  {each.line}")
        if each.next:
            lines.append(f"       -> {each.next}")
    wrong = sum(each.state is State.BAD for each in answer.findings)
    lines.append(f"{wrong} wrong: begin with the first" if wrong else "it runs on its GPUs")
    tables.show([], lines)


def _document(answer: why.Answer) -> Json:
    """The form of ``-o json`` and ``-o yaml``, which docs/kubectl.md describes."""
    findings = [{"state": each.state.value, "line": each.line, "next": each.next or None} for each in answer.findings]
    return {"subject": answer.subject, "namespace": answer.namespace, "runs": answer.runs, "findings": findings}


def _check(given: options.Split) -> int:
    parser = _parser("check", "")
    parser.parse_args(given.rest)
    kubectl = options.kubectl(given.chosen, seconds=30)
    is_right = verify.run(settings.resolve(os.environ), given.chosen.get("--namespace"), _say, kubectl)
    if not is_right and not overlays.IN_CHECKOUT:
        _say("`just` is run in a checkout of bitfusiond")
    return 0 if is_right else 1


def _say(line: str) -> None:
    tables.show([], [line])
