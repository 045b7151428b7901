"""Checks of the hosts of -H together: pure functions from facts to a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tfdist.launch.doctor.facts import Facts
from tfdist.launch.doctor.host_checks import installed_tensorflow, release
from tfdist.launch.doctor.hosts import Answer
from tfdist.launch.doctor.verdicts import Examination, Verdict, failed, ok, skipped

# Below this the time that an answer travels hides the difference.
CLOCK_SECONDS = 2.0

VERSIONS: tuple[tuple[str, Callable[[Facts], str]], ...] = (
    ("Python", lambda facts: release(facts.python)),
    ("TensorFlow", installed_tensorflow),
    ("Keras", lambda facts: facts.keras),
    ("Horovod", lambda facts: facts.horovod),
    ("tfdist", lambda facts: facts.tfdist),
)


def reachable(examination: Examination) -> Verdict:
    """Every host answers over ssh, without asking for a password."""
    lost = [answer for answer in examination.answers if answer.facts is None]
    if lost:
        return failed(
            "; ".join(f"{answer.host.name}: {answer.error}" for answer in lost),
            _reach_hint(lost[0]),
        )
    return ok(", ".join(answer.host.name for answer in examination.answers))


def versions(examination: Examination) -> Verdict:
    """Every host has the same versions."""
    reached = examination.reached
    if len(reached) < 2:
        return skipped("fewer than two hosts answered")
    for what, version in VERSIONS:
        found = {answer.host.name: version(facts) for answer, facts in reached}
        if len(set(found.values())) > 1:
            usual = Counter(found.values()).most_common(1)[0][0]
            other = next(name for name, value in found.items() if value != usual)
            listed = ", ".join(f"{n}: {v or 'none'}" for n, v in found.items())
            wanted = f"{what} {usual}" if usual else f"without {what}"
            return failed(
                f"{what} differs: {listed}",
                f"make {other} like the others ({wanted})",
            )
    return ok(f"the same on {len(reached)} hosts")


def clocks(examination: Examination) -> Verdict:
    """The hosts' clocks agree."""
    worst = max(examination.reached, key=lambda pair: clock_gap(*pair), default=None)
    if worst is None:
        return skipped("no host answered")
    gap, name = clock_gap(*worst), worst[0].host.name
    if gap > CLOCK_SECONDS:
        return failed(
            f"the clock of {name} is {gap:.0f} s or more away from this host's",
            f"ssh {name} timedatectl set-ntp true",
        )
    bound = max(_clock_bound(*pair) for pair in examination.reached)
    return ok(f"at most {bound:.1f} s apart, the time of asking included")


def interfaces(examination: Examination) -> Verdict:
    """One interface has the same name on every host, as horovodrun insists."""
    reached = examination.reached
    found = {answer.host.name: _usable(facts) for answer, facts in reached}
    if len(found) < 2:
        return skipped("fewer than two hosts answered")
    common = set.intersection(*(set(names) for names in found.values()))
    # One address on two hosts (Docker's bridge) leads to neither of them.
    routable = sorted(
        name
        for name in common
        if len({addresses[name] for addresses in found.values()}) == len(found)
    )
    if not routable:
        listed = "; ".join(
            f"{host}: {', '.join(names) or 'none'}" for host, names in found.items()
        )
        return failed(
            f"no interface has the same name on all hosts ({listed})",
            "horovodrun needs one: rename it (ip link set OLD name NEW); mpirun does "
            "not, with --mca btl_tcp_if_include SUBNET",
        )
    return ok(", ".join(routable))


def own_names(examination: Examination) -> Verdict:
    """No host resolves its own name to itself only (127.0.1.1, Debian's default).

    Horovod's Gloo ignores the chosen interface when it makes its process sets and
    offers the others the address of its host's own name
    (horovod 0.28.1, common/gloo/gloo_context.cc).
    """
    reached = examination.reached
    if len(reached) < 2:
        return skipped("fewer than two hosts answered")
    for answer, facts in reached:
        name = answer.host.name
        if not facts.name_addresses:
            return failed(
                f"{name} cannot resolve its own name, {facts.host}",
                f"add its address and {facts.host} to /etc/hosts on {name}",
            )
        loop = [each for each in facts.name_addresses if each.startswith("127.")]
        if loop:
            return failed(
                f"{name} resolves its own name, {facts.host}, to {loop[0]}: every Gloo "
                "job over several hosts dies",
                f"in /etc/hosts on {name}, give {facts.host} its real address instead",
            )
    return ok("every host finds its own address")


CHECKS = (reachable, versions, clocks, interfaces, own_names)


def clock_gap(answer: Answer, facts: Facts) -> float:
    """Returns how far a host's clock is away from ours, at least, in seconds.

    The host read its clock between our question and its answer, so what it read
    has to lie between them; by how much it does not is certain.

    Example:
        >>> answer = Answer(Host("a"), asked=100.0, answered=110.0)
        >>> clock_gap(answer, Facts(clock_before=163.0, clock_after=168.0))
        58.0
    """
    return max(
        0.0, answer.asked - facts.clock_before, facts.clock_after - answer.answered
    )


def _clock_bound(answer: Answer, facts: Facts) -> float:
    return max(
        abs(answer.asked - facts.clock_before),
        abs(facts.clock_after - answer.answered),
    )


def _usable(facts: Facts) -> dict[str, str]:
    return {
        each.name: each.address
        for each in facts.interfaces
        if each.up and each.address and not each.address.startswith("127.")
    }


def _reach_hint(answer: Answer) -> str:
    name = answer.host.name
    if "Host key verification failed" in answer.error:
        return f"ssh {name} once by hand and accept its key"
    if "Permission denied" in answer.error:
        return f"ssh-copy-id {name}"
    if "no ssh" in answer.error:
        return "apt-get install -y openssh-client"
    if answer.error.startswith("there is no"):
        return f"install the same environment at the same path on {name}"
    return f"ssh -o BatchMode=yes {name} true"
