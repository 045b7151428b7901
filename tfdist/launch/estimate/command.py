"""The arguments of `tfdist estimate`, and what is done with them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfdist.launch.arguments import parse_ranks
from tfdist.launch.errors import CommandError
from tfdist.launch.estimate import measure, plot
from tfdist.launch.estimate.compressions import (
    BYTES,
    DEFAULT,
    INT8_BLOCK,
    MATRIX_SIDE,
    NONE,
    WAYS,
    Gradients,
    parse_compression,
)
from tfdist.launch.estimate.cost import Link
from tfdist.launch.estimate.report import Question, report, title
from tfdist.launch.estimate.units import (
    parse_bandwidth,
    parse_count,
    parse_duration,
    parse_list,
)

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = f"""\
Predicts what communication costs a training step, from the latency-bandwidth model
(Hockney 1994): n bytes take alpha + n beta seconds, alpha being the latency and beta
the inverse of the bandwidth. N ranks reduce n bytes

  in a ring   in 2(N-1) alpha + 2(N-1)/N n beta        (Patarasuk, Yuan, Bandwidth
              optimal all-reduce algorithms for clusters of workstations, 2009)
  in a tree   in 2 ceil(log2 N) (alpha + n beta)       (Thakur, Rabenseifner, Gropp,
              Optimization of collective communication operations in MPICH, 2005)

and the better one counts. Efficiency is step / (step + communication), with the same
batch on each rank. That counts no overlap, though gradients of large models begin to
travel while others are computed, nor what adding up and compressing cost the processor.

Bytes of D parameters: fp16: 2 D. bf16: 2 D, in an all-to-all and an all-gather, as
Horovod cannot add it; int8: D (1 + 4/{INT8_BLOCK}), in the same two. randomk:K: 4 K D,
with one seed on all ranks. powersgd:R: 8 R D / {MATRIX_SIDE} in two all-reduces, as if
all weights were square matrices of that side (Vogels et al., PowerSGD, 2019). topk:K:
8 K D from each rank to all others, since the positions differ: (N-1)(alpha + n beta).
sign: D / 8 from each rank to all others.
"""
EPILOG = """\
example: tfdist estimate --params 25M --np 2,8,64,1024 --bandwidth 1Gbit,10Gbit
             --step-ms 120 --plot efficiency.png

The model knows bytes, not accuracy, and Gloo adds 16-bit numbers slowly on CPUs:
measure before you rely on a compression.
"""


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    parser = verbs.add_parser(
        "estimate",
        help="predict the cost of communication, and which compression pays",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--params", required=True, metavar="D", help="trainable parameters, 25M"
    )
    parser.add_argument(
        "--np",
        default="2,8,64,1024",
        metavar="N,...",
        help="numbers of ranks (default: %(default)s)",
    )
    parser.add_argument(
        "--bandwidth",
        metavar="B,...",
        help="of a link, each way: 1Gbit,1.25GB/s (default: 1Gbit,10Gbit; with "
        "--measure: what is measured)",
    )
    parser.add_argument(
        "--latency",
        default="50us",
        help="of one message (default: %(default)s, Ethernet with TCP)",
    )
    parser.add_argument(
        "--step-ms", metavar="MS", help="what one rank computes in a step"
    )
    parser.add_argument(
        "--compression",
        metavar="NAME[:SETTING],...",
        help=f"only these of {', '.join(WAYS)} (default: all)",
    )
    parser.add_argument(
        "--dtype", default="float32", help=f"of gradients: {', '.join(BYTES)}"
    )
    parser.add_argument(
        "--measure",
        nargs="?",
        const="gloo",
        metavar="gloo|mpi",
        help="first measure real all-reduces through Horovod: on this machine with two "
        "ranks, or on the hosts of -H",
    )
    parser.add_argument(
        "-H", "--hosts", metavar="HOST:SLOTS,...", help="where --measure runs"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw efficiency over ranks (extra: plot)",
    )
    parser.set_defaults(function=estimate)


def estimate(arguments: argparse.Namespace) -> int:
    """Prints the prediction; returns 0.

    Raises:
        CommandError: If an argument cannot be read, or the measurement fails.
    """
    question = read_question(arguments)
    if arguments.hosts is not None and arguments.measure is None:
        raise CommandError("-H says where to measure.", hint="add --measure")
    if arguments.plot is not None:
        plot.check_plot(arguments.plot, question.step)
    if arguments.measure is not None:
        latency = question.links[0].latency
        link = measure.measure(arguments.measure, arguments.hosts, latency)
        print(f"measured: {title(link)}\n")
        given = question.links if arguments.bandwidth is not None else ()
        question = replace(question, links=(link, *given))
    print(report(question))
    if arguments.plot is not None:
        plot.draw(question, arguments.plot, chosen=arguments.compression is not None)
        print(f"\nplot: {arguments.plot}")
    return 0


def read_question(arguments: argparse.Namespace) -> Question:
    """Returns the arguments' meaning.

    Raises:
        CommandError: If one of them cannot be read.
    """
    if arguments.dtype not in BYTES:
        raise CommandError(
            f"--dtype: unknown {arguments.dtype!r}; known: {', '.join(BYTES)}.",
            hint="--dtype float32",
        )
    latency = parse_duration(arguments.latency, "--latency")
    bandwidths = parse_list(
        arguments.bandwidth or "1Gbit,10Gbit", "--bandwidth", parse_bandwidth
    )
    candidates = DEFAULT
    if arguments.compression is not None:
        named = parse_list(arguments.compression, "--compression", parse_compression)
        candidates = tuple(each for each in named if each != NONE)
    step = None
    if arguments.step_ms is not None:
        step = parse_duration(f"{arguments.step_ms.removesuffix('ms')}ms", "--step-ms")
    return Question(
        gradients=Gradients(parse_count(arguments.params, "--params"), arguments.dtype),
        ranks=tuple(parse_list(arguments.np, "--np", parse_ranks)),
        links=tuple(Link(latency, bandwidth) for bandwidth in bandwidths),
        step=step,
        candidates=candidates,
    )
