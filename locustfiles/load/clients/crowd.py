"""The clients of a test whose number Locust decides: who came, and who stayed until the end."""

MOST = 10_000  # [ours] clients in one test, unless --clients says otherwise: twice what one process was measured with


class Crowd:
    """Users of Locust are all alike, so the client that came last leaves first. Those that never left are judged."""

    def __init__(self, most: int) -> None:
        """`most`: how many clients may come in one test."""
        self.most = most
        self.came = self.peak = 0
        self._here: list[int] = []
        self._first_to_leave = most

    def come(self) -> int | None:
        """Return the number of a new client; None if no more may come."""
        if self.came == self.most:
            return None
        self._here.append(self.came)
        self.came += 1
        self.peak = max(self.peak, len(self._here))
        return self._here[-1]

    def leave(self) -> int:
        """Return the number of the client that leaves."""
        number = self._here.pop()
        self._first_to_leave = min(self._first_to_leave, number)
        return number

    @property
    def here(self) -> int:
        """Number of clients that have a user now."""
        return len(self._here)

    @property
    def stayed(self) -> int:
        """How many clients, from number 0 on, came and never left."""
        return min(self.came, self._first_to_leave)

    def why_not_judged(self) -> str:
        """Return why nothing can be judged by those who stayed, as a part of a sentence; empty if it can."""
        if not self.came:
            return "Locust started no client of ours"
        if self.stayed * 2 < self.peak:
            return f"only {self.stayed} of {self.peak} clients stayed until the end, which is less than half"
        return ""

    def in_words(self) -> str:
        """Return who came and is not judged, as a sentence without its end; empty if all are."""
        if (others := self.came - self.stayed) == 0:
            return ""
        return f"{others} of {self.came} clients left or came again, as Locust was told: they were load, and are not judged"
