"""Follow the meta-leader (Finn, Rajeswaran, Kakade and Levine, "Online meta-learning", ICML 2019, algorithm 1)."""

from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import ContinualMethod
from metarun.cl.replay import Replay
from metarun.episodes import Episodes


class FTML(RehearsalMethod):
    """Each update is made on tasks drawn from a buffer of all tasks so far, including the new ones.

    The learner then adapts to the tasks of a round from weights trained on the whole past; online streams (`trainer.switch`) and
    tests score it after this adaptation.

    Args:
        size: number of tasks to store; beyond it, every past task is kept with the same probability.
        draw: number of tasks in an update; null: as many as new tasks.
    """

    sees_tasks = True

    def __init__(self, size: int = 2000, draw: int | None = None) -> None:
        super().__init__(size, draw)

    def conflict(self, other: ContinualMethod) -> str | None:
        return "both choose the past tasks of an update; remove one of the two" if isinstance(other, Replay) else None

    def mix(self, episodes: Episodes) -> Episodes:
        context = {name: value for name, value in episodes.context.items() if name != "weight"}
        self.memory.offer(Episodes(episodes.support, episodes.query, context), self.size)
        return self.memory.draw(self.number or len(episodes))
