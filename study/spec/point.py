"""Resolution of one point of a search: which axes it has, and their values."""

from dh2l.config.conditions import is_weight
from dh2l.errors import UserError
from study.spec.arms import arm_at, exists_in
from study.spec.cell_settings import CellSettings, Pick, default_value
from study.spec.settings import Value


class PointResolver:
    """Picks the values of a cell's axes, each after the axes on which its `when` depends."""

    def __init__(self, cell: CellSettings, pick: Pick) -> None:
        self._cell, self._pick = cell, pick
        self._axes = cell.axes
        self._fixed = cell.settings({})
        self._values: dict[str, Value] = {}
        self._absent: set[str] = set()

    def point(self) -> dict[str, Value]:
        """Return the values of the axes, in the order of the axes.

        Weights come first, because an axis of a part whose weights are 0 is absent.

        Raises:
            UserError: axes depend on each other.
        """
        weights = [key for key in self._axes if is_weight(key)]
        for key in weights:
            self._resolve(key, ())
        arm = arm_at(self._cell.arm, self._value)
        existing = [key for key in self._axes if key in weights or exists_in(key, arm)]
        for key in existing:
            self._resolve(key, ())
        return {key: self._values[key] for key in existing if key in self._values}

    def _resolve(self, key: str, dependants: tuple[str, ...]) -> None:
        """Pick the value of an axis, or note that it is absent because its `when` does not hold.

        Args:
            key: the axis.
            dependants: the axes whose conditions led to this one.
        """
        if key in dependants:
            raise UserError(
                f"{self._cell.source_location(key)}: the axes {' and '.join(sorted(dependants))} "
                "depend on each other; change one of their `when`"
            )
        if key in self._values or key in self._absent:
            return
        axis = self._axes[key]
        for other in axis.when:
            if other in self._axes:
                self._resolve(other, (*dependants, key))
        if all(self._holds(other, expected) for other, expected in axis.when.items()):
            self._values[key] = self._pick(key, axis)
        else:
            self._absent.add(key)

    def _holds(self, key: str, expected: Value) -> bool:
        return self._value(key) in (expected if isinstance(expected, list) else [expected])

    def _value(self, key: str) -> Value:
        if key in self._values:
            return self._values[key]
        return self._fixed.get(key, default_value(key))
