"""What steps of traffic control have left standing, so that it can be taken away, or made again.

Only the standard library is imported; see `steps`.
"""

from __future__ import annotations

from pytest_benchscale.network.steps import (
    AddClassifier,
    AddFilter,
    AddMirror,
    DeleteClassifier,
    DeleteDevice,
    DeleteFilter,
    SetNetem,
    SetRate,
)

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_benchscale.network.steps import Hook, Step

__all__ = ["Standing", "undoing"]


def undoing(steps: Iterable[Step]) -> list[Step]:
    """Return the steps that take away what these create: devices, and `clsact` with its filters."""
    created = Standing()
    created.note(step for step in steps if isinstance(step, AddMirror | AddClassifier))
    return created.removal()


class Standing:
    """What is there in one network namespace, as far as it was made by the steps that were noted."""

    def __init__(self) -> None:
        self._mirrors: dict[str, SetNetem | SetRate | None] = {}
        self._classifiers: dict[str, dict[tuple[Hook, int], AddFilter]] = {}

    def copy(self) -> Standing:
        """Return another one of the same things."""
        other = Standing()
        other.note(self.steps())
        return other

    def note(self, steps: Iterable[Step]) -> None:
        """Take note of steps that were carried out."""
        for step in steps:
            match step:
                case AddMirror(device):
                    self._mirrors[device] = None
                case SetNetem() | SetRate():
                    self._mirrors[step.device] = step
                case AddClassifier(device):
                    self._classifiers[device] = {}
                case AddFilter():
                    filters = self._classifiers.setdefault(step.device, {})
                    filters[step.hook, step.priority] = step
                case DeleteFilter(device, hook, priority):
                    self._classifiers.get(device, {}).pop((hook, priority), None)
                case DeleteClassifier(device):
                    self._classifiers.pop(device, None)
                case DeleteDevice(device):
                    self._mirrors.pop(device, None)

    def steps(self) -> list[Step]:
        """Return the steps that make all of it, where nothing is."""
        found: list[Step] = [AddMirror(device) for device in self._mirrors]
        found += [queue for queue in self._mirrors.values() if queue is not None]
        found += [AddClassifier(device) for device in self._classifiers]
        for filters in self._classifiers.values():
            found += filters.values()
        return found

    def removal(self) -> list[Step]:
        """Return the steps that take all of it away."""
        found: list[Step] = [DeleteClassifier(device) for device in self._classifiers]
        found += [DeleteDevice(device) for device in self._mirrors]
        return found

    def leftovers(self, steps: Iterable[Step]) -> list[Step]:
        """Return the steps that take away what these are about to make, and what is there already.

        Of a device that has gone, what was made beside it may still be there.
        """
        found: list[Step] = []
        for step in steps:
            match step:
                case AddMirror(device) if device in self._mirrors:
                    found.append(DeleteDevice(device))
                case AddClassifier(device) if device in self._classifiers:
                    found.append(DeleteClassifier(device))
        return found
