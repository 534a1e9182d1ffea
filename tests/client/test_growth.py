"""What a client tells of the blocks that a file has gained."""

from __future__ import annotations

from luciole.client.growth import Gain, Growth


def test_what_comes_while_a_report_is_on_its_way_is_in_the_next() -> None:
    growth = Growth()
    growth.add(10)
    assert growth.begin_report() == Gain(10, False)
    growth.add(7)
    assert growth.shown == 17
    growth.end_report(counted=True)
    assert growth.shown == 7
    assert growth.begin_report() == Gain(7, False)
    growth.end_report(counted=True)
    assert growth.settled


def test_a_report_that_failed_may_have_counted_so_nothing_is_known() -> None:
    growth = Growth()
    growth.add(10)
    growth.begin_report()
    growth.doubt()
    growth.add(5)
    assert growth.begin_report() == Gain(None, True)
    growth.end_report(counted=True)
    assert growth.settled


def test_a_report_that_a_cut_made_void_is_followed_by_a_count() -> None:
    growth = Growth()
    growth.add(10)
    growth.begin_report()
    growth.end_report(counted=False)
    growth.add(5)
    assert growth.begin_report() == Gain(None, False)


def test_a_refused_report_is_told_again_with_what_came_meanwhile() -> None:
    growth = Growth()
    growth.add(10)
    assert growth.begin_report() == Gain(10, False)
    growth.add(5)
    growth.withdraw()
    assert growth.begin_report() == Gain(15, False)
    growth.forget()
    growth.withdraw()
    assert growth.begin_report() == Gain(None, False)
