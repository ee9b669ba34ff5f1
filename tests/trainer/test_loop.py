"""The loop, boundaries and checkpoints, among parts that note what is asked of them."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from torch import tensor

from metarun.data.source import Stage
from metarun.ranks import Ranks
from metarun.tracking import RunFolder
from metarun.trainer import checkpoint, snapshot
from metarun.trainer.boundary import Boundary
from metarun.trainer.loop import Loop
from metarun.trainer.settings import Settings
from metarun.trainer.snapshot import Snapshots, restore
from metarun.trainer.state import Diverged, Position, Pruned
from metarun.trainer.update import Step

A, B = (Stage(name, f"{name} train", f"{name} val", f"{name} test") for name in "AB")


class Noting:
    """Notes its calls as (NAME.METHOD, *arguments) and gives back ``answers``, by method; attributes are as given."""

    def __init__(self, name, notes, answers=None, **attributes):
        self._name, self._notes, self._answers = name, notes, answers or {}
        vars(self).update(attributes)

    def __getattr__(self, method):
        def called(*given, **keys):
            self._notes.append((f"{self._name}.{method}", *given, *keys.values()))
            answer = self._answers.get(method)
            return answer(*given) if callable(answer) else answer

        return called

    def __call__(self, *given):
        return self.__getattr__("call")(*given)


class Meter(Noting):
    @contextmanager
    def bar(self, *given):
        self._notes.append(("meter.bar", *given))
        yield
        self._notes.append(("meter.bar ends",))

    @contextmanager
    def paused(self):
        self._notes.append(("meter.paused",))
        yield
        self._notes.append(("meter.goes on",))


STEP = Step(tensor(1.0), None, None, None)


def made(*given, online=False, finite=None, observes=False, **keys):
    """A loop over stages ``given`` of 2 updates each, and the list of its notes."""
    notes = []
    of = lambda name, answers=None, **attributes: Noting(name, notes, answers, **attributes)  # noqa: E731
    position = Position(order=list(range(len(given))))

    def begin(number):
        position.started += 1

    def end(stage):
        position.ended += 1

    state = SimpleNamespace(
        algorithm=of("learner", progress=None),
        method=of("method", {"source": lambda number: given[number].train}, observes=observes),
        stages=list(given),
        iterations=2,
        total=2 * len(given),
        position=position,
        losses=of("losses"),
    )
    rounds = [0, 0, 1, 0][: state.total]
    loop = Loop(
        settings=Settings(0, **{"iterations": 2, "tasks": 1, "optimizer": {}, "log_every": 100, "validate_every": None} | keys),
        state=state,
        draws=of("draws"),
        feed=of("feed", {"batches": lambda source, start, end: iter([f"{source} {i}" for i in range(start, end)])}),
        update=of("update", {"call": STEP._replace(finite=finite)}),
        order=of("order"),
        boundary=of("boundary", {"begin": begin, "end": end}),
        stream=of("stream", rounds=rounds) if online else None,
        tester=of("tester", {"outcome": lambda rounds: ("outcome", rounds)}),
        validation=of("validation"),
        meter=Meter("meter", notes, {"read_losses": "losses"}),
        snapshots=of("snapshots", due=False),
        stopping=of("stopping", {"caught": (0, False)}, ranks=Ranks()),
        folder=of("folder", stop=SimpleNamespace(exists=lambda: False)),
    )
    return loop, notes


SAVE = [("meter.paused",), ("folder.check_claim",), ("snapshots.save",), ("meter.goes on",)]


def step(number, tasks):
    return [
        ("draws.reseed", number),
        ("update.call", tasks),
        ("method.after_update", "learner", tasks),
        ("losses.add", STEP),
        ("meter.advance",),
    ]


CAUGHT = [("stopping.caught", False), ("stopping.stop", 0)]
LOG = [("meter.read_losses",), ("meter.log_losses", "losses")]


def noted(loop, notes):
    """What has been noted, the learner by name."""
    return [tuple("learner" if part is loop.state.algorithm else part for part in note) for note in notes]


def test_stage_after_stage():
    loop, notes = made(A, B)
    assert loop.run() == ("outcome", None)
    expected = []
    for number, name in enumerate("AB"):
        expected += [("order.arrange", number), ("tester.add_row",), ("boundary.begin", number), *SAVE, ("method.enter", number)]
        expected += [
            ("method.source", number),
            ("feed.batches", f"{name} train", 0, 2),
            ("meter.bar", name, 2 * number, 2 * number + 2),
        ]
        expected += [("learner.train",), ("meter.start",), *step(2 * number, f"{name} train 0"), *CAUGHT]
        expected += [*step(2 * number + 1, f"{name} train 1"), *LOG, *CAUGHT, ("meter.bar ends",)]
        expected += [("boundary.end", (A, B)[number]), *SAVE]
    assert noted(loop, notes) == [*expected, ("tester.outcome", None)]
    assert loop.state.position.step == 4
    assert loop.state.algorithm.progress == 0.75


def test_a_run_goes_on_in_the_middle_of_a_stage():
    loop, notes = made(A, B)
    vars(loop.state.position).update(step=3, started=2, ended=1)
    loop.run()
    expected = [("method.enter", 1), ("method.source", 1), ("feed.batches", "B train", 1, 2), ("meter.bar", "B", 2, 4)]
    assert noted(loop, notes)[:6] == [*expected, ("learner.train",), ("meter.start",)]
    assert ("boundary.end", B) in notes
    assert loop.state.position.step == 4
    loop, notes = made(A, B)
    vars(loop.state.position).update(step=4, started=2, ended=2)
    loop.run()
    assert notes == [("tester.outcome", None)]


def test_a_single_stage_has_a_bar_that_says_so():
    loop, notes = made(A)
    loop.run()
    assert ("meter.bar", "train", 0, 2) in notes


def when(loop, notes, name):
    """Numbers of updates made when ``name`` was called."""
    made, found = 0, []
    for note in notes:
        made += note[0] == "losses.add"
        if note[0] == name:
            found.append(made)
    return found


def test_losses_and_validations_come_by_their_intervals_and_at_the_end():
    loop, notes = made(A, log_every=2, validate_every=3)
    loop.state.iterations = loop.state.total = 7
    loop.run()
    assert when(loop, notes, "meter.log_losses") == [2, 4, 6, 7]
    assert when(loop, notes, "validation.call") == [3, 6, 7]
    assert ("validation.call", A) in notes
    last = [note[0] for note in notes]
    assert last.index("meter.log_losses") < last.index("validation.call")


def test_checkpoints_come_when_they_are_due_and_before_a_signal_stops():
    loop, notes = made(A)
    loop.state.iterations = loop.state.total = 4
    told = iter([(0, False), (0, True), (9, False), (0, False)])
    loop.stopping._answers["caught"] = lambda due: next(told)
    loop.snapshots.due = True
    loop.run()
    assert when(loop, notes, "snapshots.save") == [0, 2, 3, 4]
    assert [note for note in notes if note[0].startswith("stopping")] == [
        note for number in (0, 0, 9, 0) for note in (("stopping.caught", True), ("stopping.stop", number))
    ]
    names = [note[0] for note in notes]
    assert names[names.index("stopping.stop") - 1] == "stopping.caught"


@pytest.mark.parametrize("by", ["file", "another process"])
def test_a_pruned_run_saves_and_ends_after_a_validation(by):
    loop, notes = made(A, validate_every=1)
    loop.folder.stop.exists = lambda: by == "file" and loop.state.position.step == 1
    if by != "file":
        loop.stopping.ranks.all_reduce_max = lambda value: (int(loop.state.position.step == 1),)
    with pytest.raises(Pruned, match=r"^pruned at update 1 of 2$"):
        loop.run()
    assert noted(loop, notes)[-5:] == [("validation.call", A), *SAVE]


@pytest.mark.parametrize(
    ("finite", "observes", "told"),
    [(None, True, True), (None, False, True), (True, True, True), (False, True, False), (False, False, True), (True, False, True)],
)
def test_a_method_that_observes_is_told_of_updates_that_were_made(finite, observes, told):
    loop, notes = made(A, finite=None if finite is None else tensor(finite), observes=observes)
    loop.step(iter(["tasks"]))
    assert (("method.after_update", loop.state.algorithm, "tasks") in notes) == told
    assert loop.state.position.step == 1
    assert notes[-1][0] == "losses.add"


# A stream ------------------------------------------------------------------------------------------------------------------------


def test_a_stream_is_one_run_over_its_stretches():
    loop, notes = made(A, B, online=True, validate_every=1)
    assert loop.run() == ("outcome", [0, 0, 1, 0])
    names = [note[0] for note in notes]
    save = [*SAVE[:2], ("stream.log_scores",), *SAVE[2:]]
    assert notes[:9] == [("tester.add_row",), ("boundary.begin", 0), *save, ("method.enter", 0), ("meter.bar", "stream", 0, 4)]
    assert [note[1:] for note in notes if note[0] == "feed.batches"] == [("A train", 0, 2), ("B train", 2, 3), ("A train", 3, 4)]
    tasks = ["A train 0", "A train 1", "B train 2", "A train 3"]
    for name in ("stream.look", "update.call", "stream.observe"):
        assert [note[1] for note in notes if note[0] == name] == tasks
    first = names.index("stream.look")
    assert names[first : first + 3] == ["stream.look", "stream.observe", "update.call"]
    assert "validation.call" not in names
    assert "order.arrange" not in names
    at = names.index("meter.read_losses")
    assert names[at : at + 3] == ["meter.read_losses", "stream.log_scores", "meter.log_losses"]
    assert when(loop, notes, "meter.read_losses") == [4]
    assert notes[-7:-1] == [("meter.bar ends",), *save]


def test_a_stream_goes_on_where_it_was():
    loop, notes = made(A, B, online=True)
    vars(loop.state.position).update(step=3, started=3)
    loop.run()
    assert notes[0] == ("method.enter", 2)
    assert [note[1:] for note in notes if note[0] == "feed.batches"] == [("A train", 3, 4)]


def test_a_detected_boundary_ends_a_stage_before_the_update():
    loop, notes = made(A, B, online=True)
    vars(loop.state.position).update(step=1, started=2)
    ended = Stage("before round 2", "past", "past", "past")
    loop.stream._answers["look"] = ended
    loop.step(iter(["tasks"]))
    assert notes[:9] == [
        ("draws.reseed", 1),
        ("stream.look", "tasks"),
        ("stream.log_scores",),
        ("boundary.end", ended),
        ("boundary.begin", 2),
        ("method.enter", 2),
        ("draws.reseed", 1),
        ("stream.observe", "tasks"),
        ("update.call", "tasks"),
    ]


# Boundaries ----------------------------------------------------------------------------------------------------------------------


def boundary(figures=None, **keys):
    notes = []
    of = lambda name, answers=None, **attributes: Noting(name, notes, answers, **attributes)  # noqa: E731
    state = SimpleNamespace(
        algorithm=SimpleNamespace(get_parameter=lambda name: f"weight {name}"),
        method=of("method", {"on_stage_end": figures}, per_stage=["head"]),
        optimizer=of("optimizer", {"forget": lambda *given: notes.append(("forgot", *map(list, given)))}),
        position=Position(step=6, started=1, ended=1),
        best=of("best"),
        grow=lambda number: notes.append(("grow", number)),
    )
    return Boundary(state, of("draws"), of("log"), **{"reset_optimizer": False, "restart_schedule": False} | keys), notes


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_stage_begins(number, reset, restart):
    of, notes = boundary(reset_optimizer=reset, restart_schedule=restart)
    of.begin(number)
    notes = [note for note in notes if note[0] != "optimizer.forget" or len(note) == 1]
    again = [("optimizer.forget",), ("forgot",)] if number and reset else []
    assert notes == [
        *again,
        *([("optimizer.restart_schedule",)] if number and restart else []),
        ("draws.reseed", 6, "start"),
        ("method.enter", number),
        ("grow", number),
        ("method.on_stage_start", of.state.algorithm, number),
        ("forgot", ["weight head"]),
        ("best.clear",),
    ]
    assert (of.state.position.started, of.state.position.ended) == (2, 1)


@pytest.mark.parametrize("figures", [None, {"kept": 0.5}])
def test_a_stage_ends(figures):
    of, notes = boundary(figures)
    of.end(B)
    logged = [("log.scalars", 6, {"stage/kept": 0.5})] if figures else []
    assert notes == [("draws.reseed", 6, "end"), ("method.on_stage_end", of.state.algorithm, B), *logged]
    assert (of.state.position.started, of.state.position.ended) == (1, 2)


# Checkpoints ---------------------------------------------------------------------------------------------------------------------


class State:
    """As much of a run's state as a checkpoint needs."""

    total, finite = 9, True

    def __init__(self, step=0):
        self.position, self.best = Position(step=step), SimpleNamespace(states=[], steps=[])

    def require_finite(self):
        if not self.finite:
            raise Diverged("no")

    def state_dict(self):
        return {"step": self.position.step}

    def load_state_dict(self, saved):
        self.position.step = saved["step"]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def snapshots(path, ranks=None):
    log = SimpleNamespace(sync=lambda: 12)
    return Snapshots(RunFolder(path), "digest", State(3), log, ranks or Ranks(), 5.0, Clock())


def test_a_checkpoint_is_due_by_the_clock_since_the_last(tmp_path):
    for of in (snapshots(tmp_path), snapshots(tmp_path, Ranks(1, 2))):
        of.clock.now += 4.9
        assert not of.due
        of.clock.now += 0.1
        assert of.due
        of.save()
        assert not of.due
        of.clock.now += 5
        assert of.due


def test_a_checkpoint_holds_the_state_and_the_best_weights_if_they_have_changed(tmp_path, monkeypatch):
    of, written = snapshots(tmp_path), []
    own = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, *given: (written.append(path.name), own(path, *given)))
    of.save()
    assert checkpoint.load(of.folder.last) == {"schema": 1, "source": "digest", "step": 3, "lines": 12}
    of.state.position.step = 4
    of.state.best = SimpleNamespace(states=[{"w": tensor(2.0)}], steps=[4])
    of.save()
    of.save()
    assert checkpoint.load(of.folder.previous)["step"] == 4
    of.state.best = SimpleNamespace(states=[{"w": tensor(3.0)}], steps=[5])
    of.save()
    assert written == ["last.pt", "best.pt", "last.pt", "last.pt", "best.pt", "last.pt"]
    assert checkpoint.load(of.folder.best) == {"schema": 1, "steps": [5], "states": [{"w": tensor(3.0)}]}


def test_the_first_process_alone_writes_and_nobody_what_is_not_finite(tmp_path):
    of = snapshots(tmp_path, Ranks(1, 2))
    of.save()
    assert not of.folder.last.exists()
    of = snapshots(tmp_path)
    of.state.finite = False
    with pytest.raises(Diverged):
        of.save()
    assert not of.folder.last.exists()


class Heard(Ranks):
    """Two processes; what the first says is ``content``, whatever this one says."""

    content, said = None, "nothing"

    def broadcast(self, value):
        self.said = value
        return value if self.first else self.content


def test_a_run_continues_from_its_checkpoint(tmp_path, caplog):
    folder, state = RunFolder(tmp_path), State()
    assert restore(state, folder, Ranks()) == 0
    assert (state.position.step, state.position.resumed_at) == (0, [])
    snapshots(tmp_path).save()
    with caplog.at_level("INFO", logger=snapshot.__name__):
        assert restore(state, folder, Ranks()) == 12
    assert (state.position.step, state.position.resumed_at) == (3, [3])
    assert caplog.messages == ["Continuing at update 3 of 9"]
    checkpoint.save(folder.last, {"step": 5})  # of an early version
    assert restore(state, folder, Ranks()) is None
    assert state.position.resumed_at == [3, 5]


def test_all_processes_continue_from_the_checkpoint_of_the_first(tmp_path):
    snapshots(tmp_path).save()
    other, state = Heard(1, 2), State()
    other.content = {"step": 8, "lines": 2}
    assert restore(state, RunFolder(tmp_path), other) == 2
    assert (other.said, state.position.step) == (None, 8)
    first = Heard(0, 2)
    restore(state, RunFolder(tmp_path), first)
    assert (first.said["step"], state.position.step) == (3, 3)
