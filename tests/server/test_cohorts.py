"""Canary cohorts."""

from hypothesis import given
from hypothesis import strategies as st

from sim.server.deployment import cohort_bucket, in_cohort

KEYS = [f"user:{n}" for n in range(5000)]


def test_buckets_never_change():
    # sha256sum of "runtime-canary-v1|runtime|user:1" begins with these four bytes
    assert cohort_bucket("runtime", "user:1") == PINNED_WORD % 100


PINNED_WORD = 0x1CD8BD2B


@given(st.text(), st.text(), st.integers(0, 99))
def test_higher_percentage_only_adds_keys(scope, key, percent):
    assert not in_cohort(scope, key, percent) or in_cohort(scope, key, percent + 1)
    assert not in_cohort(scope, key, 0)
    assert in_cohort(scope, key, 100)


def test_cohort_size_is_close_to_percentage():
    share = sum(in_cohort("runtime", key, 5) for key in KEYS) / len(KEYS)
    assert 0.04 < share < 0.06


def test_scope_and_seed_select_different_keys():
    def chosen(scope: str, seed: str) -> set[str]:
        return {key for key in KEYS if in_cohort(scope, key, 10, seed)}

    assert len({frozenset(chosen(scope, seed)) for scope in ("a", "b") for seed in ("s", "t")}) == 4
