"""``python -m tests.tools.demo``; exit status 0 only if every step did what it should."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from bitfusiond import __version__
from tests.tools.demo import directory
from tests.tools.demo.report import DemoStoppedError, Report
from tests.tools.demo.story import tell, titles

SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.demo",
        description="Show every role of bitfusiond at work on this machine, without a cluster.",
        epilog="BITFUSIOND_CLIENTS and BITFUSIOND_INJECTION: try your own client catalogue and injection template.",
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory with everything that was made")
    parser.add_argument("--verbose", action="store_true", help="show what the daemons log, as they log it")
    options = parser.parse_args()
    report = Report(sys.stdout, titles())
    report.line(
        f"bitfusiond {__version__}: each role of the real executable, end to end. There is no cluster: the kubelet, the"
        "\nAPI server, the container runtime and the Bitfusion client around it are small stand-ins.",
    )
    working = directory.make()
    try:
        trio.run(_told, report, working, _echo(report) if options.verbose else lambda line: None)
        report.table()
        if options.keep:
            report.line(f"  kept: {working}")
    except KeyboardInterrupt:
        report.line("interrupted")
        return 130
    finally:
        if not options.keep:
            directory.remove(working)
    return 1 if report.failed else 0


def _echo(report: Report) -> Callable[[str], None]:
    return lambda line: report.line(f"     > {line}", "dim")


async def _told(report: Report, working: Path, echo: Callable[[str], None]) -> None:
    """The story, ended by a failure (printed already), by SIGTERM and SIGHUP, and by a deadline."""
    with trio.move_on_after(SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, scope)
            try:
                await tell(report, working, echo)
            except* DemoStoppedError as group:
                _show_causes(group, echo)
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        report.line(f"   {report.cross} stopped by a signal, or not done within {SECONDS:g} s", "red")


def _show_causes(group: BaseExceptionGroup[DemoStoppedError], echo: Callable[[str], None]) -> None:
    """With --verbose: what an error that no step expects looks like from inside."""
    import traceback  # noqa: PLC0415 - rarely needed

    for error in group.exceptions:
        if error.__cause__ is not None:
            for line in traceback.format_exception(error.__cause__):
                echo(line.rstrip())


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
