"""Follow the meta-leader (Finn, Rajeswaran, Kakade and Levine, "Online meta-learning", ICML 2019, algorithm 1)."""

from typing import Any

from metarun.cl.memory import Memory
from metarun.cl.method import ContinualMethod
from metarun.config import require
from metarun.episodes import Episodes


class FTML(ContinualMethod):
    """Every update is made on tasks drawn from a buffer of all tasks so far, the new ones included.

    The learner then adapts to a round's tasks from the weights that are best for all of the past, which is what an online stream
    (`trainer.switch`) and a test score.

    Args:
        size: tasks to keep; of more, each of the past is kept with the same probability.
        draw: tasks of an update; null: as many as are new.
    """

    def __init__(self, size: int = 2000, draw: int | None = None) -> None:
        require(size > 0, "size", size, "1 or more")
        require(draw is None or draw > 0, "draw", draw, "1 or more, or null")
        self.size, self.number = size, draw
        self.memory = Memory()

    def mix(self, episodes: Episodes) -> Episodes:
        context = {name: value for name, value in episodes.context.items() if name != "weight"}
        self.memory.offer(Episodes(episodes.support, episodes.query, context), self.size)
        return self.memory.draw(self.number or len(episodes))

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"], self.device)
