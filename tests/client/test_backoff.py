"""Reconnect delays by preset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import UsageError
from sim.base.randomness import draw
from sim.client.backoff import PRESETS, get

ATTEMPTS = st.integers(1, 10**9)
DRAWS = st.floats(0, 1, exclude_max=True)
# name: (least, most) delay in ms over all attempts and draws
BOUNDS = {
    "reference": (0, 8000),
    "desktop": (250, 8000),
    "sdk": (200, 5000),
    "phoenix_js": (10, 5000),
    "centrifuge_js": (500, 20_000),
    "ably": (15_000, 30_000),
    "server_hint": (400, 650),
    "equal_jitter": (125, 8000),
    "decorrelated": (250, 8000),
    "none": (0, 0),
}


def test_sdk_delays_match_shared_library(vectors):
    for line in vectors("sdk_backoff"):
        assert get("sdk").delay_ms(line["attempt"] + 1, 0.3, 0.0) == line["delay_ms"], line


@pytest.mark.parametrize("name", sorted(BOUNDS))
@given(attempt=ATTEMPTS, drawn=DRAWS, previous=st.floats(0, 1e12))
def test_delays_are_bounded(name, attempt, drawn, previous):
    least, most = BOUNDS[name]
    assert least <= get(name).delay_ms(attempt, drawn, previous) <= most


def test_every_preset_has_its_name_and_bounds():
    assert set(PRESETS) == set(BOUNDS)
    assert all(preset.name == name for name, preset in PRESETS.items())


@pytest.mark.parametrize(
    ("name", "drawn", "expected"),
    [
        ("desktop", 0.0, [250, 500, 1000, 2000, 4000, 8000, 8000]),
        ("phoenix_js", 0.0, [10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000, 5000]),
        ("ably", 0.0, [15_000] * 8 + [30_000] * 2),
        ("reference", 0.5, [125, 250, 500, 1000, 2000, 4000, 4000]),
        ("equal_jitter", 0.5, [187.5, 375, 750, 1500, 3000, 6000, 6000]),
        ("centrifuge_js", 0.5, [750, 1000, 1500, 2500, 4500, 8500, 10_500]),
        ("server_hint", 0.5, [525, 525]),
    ],
)
def test_preset_has_its_documented_delays(name, drawn, expected):
    assert [get(name).delay_ms(attempt, drawn, 0.0) for attempt in range(1, len(expected) + 1)] == expected


@pytest.mark.parametrize("name", ["desktop", "sdk", "phoenix_js", "ably", "none"])
@given(attempt=ATTEMPTS, drawn=DRAWS)
def test_presets_without_jitter_ignore_the_draw(name, attempt, drawn):
    assert get(name).delay_ms(attempt, drawn, 0.0) == get(name).delay_ms(attempt, 0.0, 0.0)


def test_decorrelated_grows_from_previous_delay():
    preset = get("decorrelated")
    assert preset.delay_ms(1, 0.0, 0.0) == 250
    assert preset.delay_ms(1, 0.5, 0.0) == 500
    assert preset.delay_ms(2, 0.5, 500.0) == 875
    assert preset.delay_ms(9, 0.99, 8000.0) == 8000


@pytest.mark.parametrize(("name", "mean_ms"), [("reference", 4000), ("equal_jitter", 6000), ("server_hint", 525)])
def test_jitter_is_uniform(name, mean_ms):
    drawn = [get(name).delay_ms(9, draw(1, "test", client), 0.0) for client in range(2000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean_ms, rel=0.05)


def test_unknown_preset_error_lists_all_presets():
    with pytest.raises(UsageError, match=r"'fast'.*ably.*desktop.*reference"):
        get("fast")
