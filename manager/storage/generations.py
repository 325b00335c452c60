"""A bounded dictionary that forgets what was not asked for lately, at the price of a plain one."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Generations(Generic[K, V]):
    """Two dictionaries: what is used moves to the young one; when that is full it becomes the old one, and what
    nobody used since is forgotten. Nothing is forgotten between two calls of `age`.

    >>> cache = Generations[str, int](max_weight=1)
    >>> cache.put("a", 1, weight=1); cache.age(); cache.put("b", 2, weight=1); cache.age()
    True
    True
    >>> cache.get("a"), cache.get("b")
    (None, 2)
    """

    def __init__(self, max_weight: int) -> None:
        self._max = max_weight
        self._young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}
        self._weight = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            self._young[key] = entry
            self._weight += entry[1]
        return entry[0]

    def put(self, key: K, value: V, weight: int) -> None:
        self._old.pop(key, None)
        known = self._young.get(key)
        self._weight += weight - (known[1] if known is not None else 0)
        self._young[key] = (value, weight)

    def age(self) -> bool:
        """Forget, if it is time to; whether it was."""
        if self._weight < self._max:
            return False
        self._old = self._young
        self._young = {}
        self._weight = 0
        return True
