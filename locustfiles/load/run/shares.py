"""How many users of each class a drill's test has: the fleet is the drill's, and everybody else's users keep their share."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sim.base.errors import UsageError

Asked = Mapping[type[Any], int]  # what each class says of its `fixed_count`, before it is set
Role = Literal["client", "publisher"]


def of_role(classes: Iterable[type[Any]], role: Role) -> list[type[Any]]:
    """Return the user classes that are clients of the fleet, or that publish."""
    return [each for each in classes if getattr(each, "role", "") == role]


def users(asked: Asked, clients: int) -> dict[type[Any], int]:
    """Return the number of users of each class.

    Classes of clients share the fleet by weight, after those with a `fixed_count`. Another class has its `fixed_count`, or as
    many users as its weight says beside the clients. Raises `UsageError` if the fleet does not come out.
    """
    fleet, publishers = of_role(asked, "client"), of_role(asked, "publisher")
    weighted = [each for each in fleet if not asked[each]]
    weight = sum(each.weight for each in weighted)
    left = clients - sum(asked[each] for each in fleet)
    if left < 0 or (left and not weight):
        raise UsageError(
            f"the drill has {clients} clients, but 'fixed_count' of {', '.join(each.__name__ for each in fleet)} makes "
            f"{clients - left}; change it, or --clients."
        )
    found = {each: asked[each] or 1 for each in publishers} | {each: asked[each] for each in fleet if asked[each]}
    passed = given = 0
    for each in weighted:  # each gets what is due up to it, so that the sum is exact
        passed += each.weight
        found[each] = left * passed // weight - given
        given += found[each]
    for each in asked:
        if each not in found and each not in weighted:
            found[each] = asked[each] or max(round((left or clients) * each.weight / (weight or 1)), 1)
    return found
