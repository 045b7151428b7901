"""The loop of restarts: hosts are lost and come back; all around it is faked."""

import signal

import pytest

from tfdist.launch.arguments import Host
from tfdist.launch.errors import CommandError
from tfdist.launch.run import launcher, prepare, supervise
from tfdist.launch.run.endings import TOO_FEW_HOSTS, Ending
from tfdist.launch.run.launcher import Options
from tfdist.launch.run.machine import Machine
from tfdist.launch.run.plan import Request
from tfdist.launch.run.probe import facts, versions
from tfdist.launch.run.restart_options import Restarts
from tfdist.launch.run.restarts import Policy

HERE = Machine(0, True, True, None, True, frozenset({"h1", "localhost"}))
HOSTS = (Host("h1", 2), Host("h2", 2), Host("h3", 2))


class World:
    """Hosts that answer or not, starts that end as told, and a clock that jumps."""

    def __init__(self, monkeypatch, folder):
        self.folder = folder
        self.now = 0.0
        self.lost: set[str] = set()
        self.address = "10.0.0.1"  # of the hosts' own names
        self.endings: list = []  # an Ending, an error, or a function returning one
        self.starts: list = []  # plans
        self.signal_at: float | None = None
        self.signal_while_asked = False  # whether hosts answer
        self.raised: int | None = None  # really, during a wait
        self.received: list[int] = []
        monkeypatch.setattr(launcher, "launch", self.launch)
        monkeypatch.setattr(prepare.remote, "ask_each", self.ask_each)
        monkeypatch.setattr(supervise, "time", self)

    def launch(self, plan, others, options, folder, received):
        self.starts.append(plan)
        self.received = received
        ending = self.endings.pop(0)
        ending = ending() if callable(ending) else ending
        if isinstance(ending, Exception):
            raise ending
        return ending

    def ask_each(self, hosts, questions, received):
        if self.starts and self.signal_while_asked:
            received.append(signal.SIGTERM)
            return [CommandError("it was not waited for.", hint="-") for _ in hosts]
        right = facts(["-m", "x"]) | {"versions": versions(), "ports": []}
        right |= {"addresses": [self.address], "interfaces": ["eth0"]}
        lost = CommandError("it did not answer.", hint="-")
        self.now += 10.0 if self.lost.intersection(hosts) else 0.0
        return [lost if host in self.lost else right for host in hosts]

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.raised is not None:
            signal.raise_signal(self.raised)
        if self.signal_at is not None and self.now >= self.signal_at:
            self.received.append(signal.SIGTERM)

    def run(self, *, min_ranks=None, hosts=HOSTS, controller="mpi"):
        request = Request(
            *(("-m", "x"), None, hosts, "horovod", controller), restarts=0
        )
        limits = Policy(restarts=5, preemptions=5)
        return supervise.supervise(
            supervise.Task(
                request=request,
                machine=HERE,
                first_port=None,
                log_dir=self.folder,
                options=Options(1.0, 0.0),
                restarts=Restarts(limits, min_ranks, hosts_timeout=60.0),
            )
        )


@pytest.fixture
def world(monkeypatch, tmp_path):
    monkeypatch.setattr(
        prepare.probe,
        "facts",
        lambda script: {
            "versions": versions(),
            "name": "h1",
            "addresses": ["10.0.0.1"],
            "interfaces": ["eth0"],
            "script": True,
        },
    )
    return World(monkeypatch, tmp_path)


def failed(reached=None):
    return Ending(1, "rank 3 of 6 on h2 failed", "log", "end", reached)


def test_a_lost_host_is_left_out_and_taken_back(world, capsys):
    def lose():
        world.lost = {"h2"}
        return failed(10)

    def find():
        world.lost = set()
        return failed(20)

    world.endings = [lose, find, Ending(0)]
    assert world.run(min_ranks=2) == 0
    hosts = [[host.name for host in plan.hosts] for plan in world.starts]
    assert hosts == [["h1", "h2", "h3"], ["h1", "h3"], ["h1", "h2", "h3"]]
    assert [plan.replicas for plan in world.starts] == [6, 4, 6]
    said = capsys.readouterr().err
    assert "failure 1 of 5; restart 1 in 1 s" in said
    assert "restart 1 with 4 ranks on h1, h3; without h2: it did not answer" in said
    assert "restart 2 with 6 ranks on h1, h2, h3\n" in said


def test_without_min_np_all_hosts_are_waited_for(world, capsys):
    def lose():
        world.lost = {"h3"}
        return failed(10)

    world.endings = [lose]
    assert world.run() == TOO_FEW_HOSTS
    assert len(world.starts) == 1 and 60 < world.now < 100
    said = capsys.readouterr().err
    assert said.count("no restart yet: 4 of at least 6 ranks have a host") == 1
    assert "no restart within 60 s: 4 of at least 6 ranks" in said


def test_even_this_machine_may_be_the_only_one_left(world):
    def lose():
        world.lost = {"h2", "h3"}
        return failed(10)

    world.endings = [lose, Ending(0)]
    assert world.run(min_ranks=1) == 0
    assert [host.name for host in world.starts[1].hosts] == ["h1"]
    # Not "default", as `auto` would say of two ranks here: the strategy is kept.
    assert world.starts[1].strategy == "horovod"


def test_without_any_host_nothing_is_started_here(world):
    def lose():
        world.lost = {"h2"}
        return failed(10)

    world.endings = [lose]
    assert world.run(min_ranks=1, hosts=(Host("h2", 2),)) == TOO_FEW_HOSTS


def test_one_host_alone_may_call_itself_a_loopback_address(world):
    world.address = "127.0.1.1"  # which only a Gloo of several hosts cannot use
    world.endings = [failed(3), Ending(0)]
    assert world.run(hosts=(Host("h2", 2),), controller="gloo") == 0


def test_a_host_that_is_lost_just_then_costs_a_failure(world, capsys):
    world.endings = [failed(3), CommandError("h2 is gone.", hint="-"), Ending(0)]
    assert world.run() == 0
    assert "h2 is gone" in capsys.readouterr().err


def test_at_the_first_start_every_host_has_to_be_right(world):
    world.lost = {"h2"}
    with pytest.raises(CommandError, match="did not answer"):
        world.run(min_ranks=1)
    assert not world.starts


def test_a_signal_during_the_wait_ends_it(world):
    world.endings = [failed(3)]
    world.signal_at = 0.5
    assert world.run() == 128 + signal.SIGTERM
    assert len(world.starts) == 1


@pytest.mark.parametrize(
    ("disposition", "code"), [(signal.SIG_IGN, 0), (signal.SIG_DFL, 129)]
)
def test_under_nohup_a_lost_terminal_ends_nothing(world, disposition, code):
    former = signal.signal(signal.SIGHUP, disposition)
    world.raised = signal.SIGHUP
    try:
        world.endings = [failed(3), Ending(0)]
        assert world.run() == code
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_signal_while_hosts_are_awaited_ends_it(world):
    def lose():
        world.lost = {"h3"}
        return failed(10)

    world.endings = [lose]
    world.signal_at = 20.0
    assert world.run() == 128 + signal.SIGTERM


def test_a_signal_while_hosts_are_asked_ends_it(world, capsys):
    world.endings = [failed(3)]
    world.signal_while_asked = True
    assert world.run() == 128 + signal.SIGTERM
    assert "no restart" not in capsys.readouterr().err


def test_a_signal_while_hosts_are_given_their_tickets_ends_it(world, capsys):
    def interrupt():
        world.received.append(signal.SIGTERM)
        return CommandError("h2 was not waited for.", hint="-")

    world.endings = [interrupt]
    assert world.run() == 128 + signal.SIGTERM
    assert capsys.readouterr().err == ""


def test_an_earlier_runs_logs_are_removed_and_nothing_else(world, tmp_path):
    for name in ("attempt-7/rank-0.log", "attempt-7/mine.txt", "attempt-8/exits.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "rank-3.log").touch()
    world.endings = [Ending(0)]
    assert world.run() == 0
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(left) == ["attempt-7", "attempt-7/mine.txt"]
