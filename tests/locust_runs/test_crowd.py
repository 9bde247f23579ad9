"""Who is judged of the clients that come and go, and how many users of each class a drill has."""

import pytest

from locustfiles.load.clients.crowd import Crowd
from locustfiles.load.run import shares
from sim.base.errors import UsageError


def crowd(came: int, left: int, came_again: int = 0, most: int = 100) -> Crowd:
    made = Crowd(most)
    for _ in range(came):
        made.come()
    for _ in range(left):
        made.leave()
    for _ in range(came_again):
        made.come()
    return made


def test_those_who_never_left_are_judged():
    assert crowd(10, 0).stayed == 10
    assert crowd(10, 0).in_words() == ""
    assert crowd(10, 4).stayed == 6
    again = crowd(10, 4, 7)
    assert (again.here, again.peak, again.stayed) == (13, 13, 6)
    assert again.in_words().startswith("11 of 17 clients left or came again")


def test_a_run_is_not_judged_by_a_few_or_by_nobody():
    assert crowd(10, 5).why_not_judged() == ""
    assert crowd(10, 6).why_not_judged() == "only 4 of 10 clients stayed until the end, which is less than half"
    assert crowd(10, 10).why_not_judged() == "only 0 of 10 clients stayed until the end, which is less than half"
    assert crowd(0, 0).why_not_judged() == "Locust started no client of ours"


def test_no_more_clients_come_than_there_may_be():
    made = crowd(3, 1, most=3)
    assert made.come() is None
    assert made.here == 2


class Client:
    role, weight, fixed_count = "client", 2, 0


class Other(Client):
    weight = 1


class Publisher:
    role, weight, fixed_count = "publisher", 1, 1


class Shopper:
    weight, fixed_count = 3, 0


def test_fleet_is_the_drills_whatever_is_beside_it():
    assert shares.users({Client: 0, Publisher: 1, Shopper: 0}, 40) == {Client: 40, Publisher: 1, Shopper: 60}
    assert shares.users({Client: 0, Shopper: 7}, 40) == {Client: 40, Shopper: 7}
    assert shares.users({Client: 0, Other: 0}, 40) == {Client: 26, Other: 14}
    assert shares.users({Client: 30, Other: 0}, 40) == {Client: 30, Other: 10}


def test_fixed_counts_that_do_not_make_the_fleet_are_refused():
    for asked in ({Client: 30}, {Client: 30, Other: 20}):
        with pytest.raises(UsageError, match=r"the drill has 40 clients, but 'fixed_count' of .* makes \d+"):
            shares.users(asked, 40)
