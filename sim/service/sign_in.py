"""Sign a client in: some requests, of which each may use values of earlier answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sim.service.forms import Service, SignInStep
from sim.service.requests import Answer, NoAnswerError, Request, request_of
from sim.service.templates import find

T = TypeVar("T")
Values = Mapping[str, object]


class NotSignedInError(Exception):
    """The service refused a step, or its answer lacks a value. `answer` is that answer, `missing` the name of the value."""

    def __init__(self, answer: Answer, missing: str = "") -> None:
        super().__init__(f"no value for {missing}" if missing else str(answer))
        self.answer, self.missing = answer, missing


def values_of(step: SignInStep, answer: Answer, known: Values) -> dict[str, object]:
    """Return the values in the answer of a step. Raises `NotSignedInError`."""
    if not 200 <= answer.status_code < 300:
        raise NotSignedInError(answer)
    document = answer.value
    found = {name: find(document, pointer, known) for name, pointer in step.values.items()}
    for name, value in found.items():
        if value in (None, ""):
            raise NotSignedInError(answer, name)
    return found


def sign_in(
    steps: Sequence[SignInStep],
    base_url: Callable[[Service], str],
    known: Values,
    then: Callable[[dict[str, object]], Request[T]],
    refused: Callable[[NotSignedInError], T],
    unanswered: Callable[[NoAnswerError], T] | None = None,
) -> Request[T]:
    """Return the request of the first step. Each answer leads to the next, and the last to what `then` makes of all values.

    `known` are the values of all other names, `refused` returns or raises what a step without its values means.
    """

    def from_step(number: int, found: dict[str, object]) -> Request[T]:
        if number == len(steps):
            return then(found)
        step, at_hand = steps[number], {**known, **found}

        def read(answer: Answer) -> T | Request[T]:
            try:
                return from_step(number + 1, {**found, **values_of(step, answer, at_hand)})
            except NotSignedInError as error:
                return refused(error)

        return request_of(step, base_url(step.service), at_hand, read, "mint", unanswered)

    return from_step(0, {})
