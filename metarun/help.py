"""`metarun --help`: every group with its choices, from the files themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from metarun.choices import choices_of

GROUPS = {
    "algo": "how to learn from a support set",
    "data": "where tasks come from",
    "model": "the network; the data brings one that suits it",
    "cl": "continual learning over stages; cl=[ewc,replay] combines",
    "trainer": "the outer loop",
    "budget": "how much of a protocol to run",
    "+paper": "the protocol of a published result, in full",
    "+table": "all runs of a published table, with -m",
    "+search": "search for values of keys on validation, with -m",
}
"""Groups with what they choose; those with a plus are not in the default configuration."""

USAGE = """\
metarun: meta-learning and continual learning, from a configuration to a results file

usage: metarun [GROUP=CHOICE ...] [KEY=VALUE ...] [-m] [--cfg job] [--config-dir DIR]
       metarun show data=CHOICE [KEY=VALUE ...]    a picture of a few tasks, without training
       metarun eval RUN [KEY=VALUE ...]            test a finished run under other settings, or on other data
       metarun why KEY [GROUP=CHOICE ...]          which file sets a key of that command, and which one wins
       metarun report RUNS ... [--table NAME]      compare runs on a page, or in a published table"""

EXAMPLES = """
Examples:
  metarun                                            MAML on sine waves, in under a minute
  metarun algo=protonet data=omniglot data.shots=5   another algorithm, data set and value
  metarun -m algo=maml,fomaml seed=0,1,2             a sweep: six runs in one output folder
  metarun -m +search=inner_lr data=sine              a search on validation, then a test

--cfg job prints the whole configuration, -m sweeps over lists, --hydra-help lists Hydra's own flags.
Run a command again to resume an unfinished run or to see the result of a finished one; restart=true starts over.
Tab completion in bash: eval "$(metarun -sc install=bash)\""""


def help_text(arguments: Sequence[str]) -> str:
    """Every group with its choices, and a line on each: the first comment of its file."""
    lines = [USAGE]
    for title, about in GROUPS.items():
        group = title.lstrip("+")
        found = choices_of(group, arguments)
        if found:
            lines += ["", f"{title}=  {about}"]
            lines += (
                rows_of_papers(found) if group == "paper" else [f"  {name:<24} {headline(found[name])}" for name in sorted(found)]
            )
    return "\n".join([*lines, EXAMPLES])


def rows_of_papers(found: Mapping[str, Path]) -> list[str]:
    """A line for the cells of one algorithm on one data set: `maml_omniglot_  5way_1shot, 5way_5shot`."""
    cells: dict[str, list[str]] = {}
    for name in sorted(found):
        algo, data, cell = [*name.split("_", 2), "", ""][:3]
        cells.setdefault(f"{algo}_{data}_" if cell else name, []).append(cell)
    return [f"  {begin:<24} {', '.join(ends)}".rstrip() for begin, ends in cells.items()]


def headline(path: Path) -> str:
    """The first comment of a YAML file, package directives aside."""
    for line in path.read_text().splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ")
    return ""
