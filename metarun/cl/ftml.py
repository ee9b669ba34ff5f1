"""Follow the meta-leader (Finn, Rajeswaran, Kakade and Levine, "Online meta-learning", ICML 2019, algorithm 1)."""

from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import ContinualMethod
from metarun.cl.replay import Replay
from metarun.episodes import Episodes


class FTML(RehearsalMethod):
    """Every update is made on tasks drawn from a buffer of all tasks so far, the new ones included.

    The learner then adapts to a round's tasks from the weights that are best for all of the past, which is what an online stream
    (`trainer.switch`) and a test score.

    Args:
        size: tasks to keep; of more, each of the past is kept with the same probability.
        draw: tasks of an update; null: as many as are new.
    """

    sees_tasks = True

    def __init__(self, size: int = 2000, draw: int | None = None) -> None:
        super().__init__(size, draw)

    def conflict(self, other: ContinualMethod) -> str | None:
        return "both choose the old tasks of an update; leave out one" if isinstance(other, Replay) else None

    def mix(self, episodes: Episodes) -> Episodes:
        context = {name: value for name, value in episodes.context.items() if name != "weight"}
        self.memory.offer(Episodes(episodes.support, episodes.query, context), self.size)
        return self.memory.draw(self.number or len(episodes))
