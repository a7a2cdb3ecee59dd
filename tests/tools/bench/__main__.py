"""``just bench [--json FILE] [NAME ...]``: run all benchmarks, or those of the modules named; print a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.tools.bench import (
    admission,
    bursts,
    cluster,
    core,
    memory,
    peers,
    plugin,
    populate,
    scale,
    simulated,
    startup,
)
from tests.tools.bench.measure import Figure

_ALL = {
    "core": core.figures,
    "admission": admission.figures,
    "bursts": bursts.figures,
    "startup": startup.figures,
    "memory": memory.figures,
    "plugin": plugin.figures,
    "populate": populate.figures,
    "scale": scale.figures,
}
_LONG = {
    "memory-long": memory.long_figures,
    "scale-full": scale.full_figures,
    "cluster": cluster.figures,
    "peers": peers.figures,
    "simulated": simulated.figures,
}  # minutes each, or a cluster: only by their names


def main() -> None:
    parser = argparse.ArgumentParser(prog="just bench")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(_ALL)}, by default all; or {', '.join(_LONG)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    chosen = parser.parse_args()
    known = _ALL | _LONG
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(known)}")
    figures: list[Figure] = []
    print(f"{'name':44} {'ours':>8} {'unit':6} {'baseline':>8} {'unit':6}  {'ratio':>6}  spread")
    for name in chosen.names or _ALL:
        for figure in known[name]():
            figures.append(figure)
            print(_row(figure))
    if chosen.json:
        chosen.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")


def _row(figure: Figure) -> str:
    row = f"{figure.name:44} {_number(figure.ours):>8} {figure.unit:6} "
    if figure.baseline is not None:
        row += f"{_number(figure.baseline):>8} {figure.unit:6} "
    if figure.ratio is not None:
        spread = f"{figure.ratio_low:.2f}..{figure.ratio_high:.2f}"
        row += f" {figure.ratio:6.2f}  {spread} "
    if figure.baseline_name is not None:
        row += f" against {figure.baseline_name}"
    if figure.aim is not None:
        row += f"  aim: below {figure.aim:g}"
    if figure.ratio_aim is not None:
        row += f"  aim: a ratio of {figure.ratio_aim:g}"
    return row


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"


if __name__ == "__main__":
    main()
