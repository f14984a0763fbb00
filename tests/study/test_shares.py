"""Shares of several processes: everything once, of about the same cost, and found where clusters say it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from torch._C._distributed_c10d import HashStore

from invdiff.problems import OptionError
from invdiff.study.listing import Item
from invdiff.study.shares import Alone, Job, Ranks, find_share, shares_of

ITEMS = [Item(f"{number}.png", Path(f"{number}.png"), (37 * number) % 101, str(number)) for number in range(60)]


@pytest.mark.parametrize("count", [1, 2, 7, 60, 100])
def test_shares_are_a_partition_of_about_equal_costs(count):
    shares = shares_of(ITEMS, count)
    assert sorted(item.name for share in shares for item in share) == sorted(item.name for item in ITEMS)
    assert [*map(list, shares)] == shares_of(ITEMS[::-1], count)
    costs = [sum(item.cost for item in share) for share in shares]
    assert max(costs) - min(costs) <= max(item.cost for item in ITEMS)
    assert all(share == sorted(share, key=lambda item: (-item.cost, item.name)) for share in shares)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8, "SLURM_ARRAY_TASK_ID")),
        (
            {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"},
            (7, 8, "SLURM_ARRAY_TASK_ID"),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (2, 3, "SLURM_ARRAY_TASK_ID"),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, "RANK")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "1"}, None),
    ],
)
def test_the_environment_of_a_cluster_tells(environment, expected):
    share = find_share(None, environment)
    if expected is None:
        assert isinstance(share, Alone)
    else:
        assert share == Job(*expected)
    assert isinstance(find_share("0/1", environment), Alone)
    assert find_share("4/5", environment) == Job(4, 5, "--shard")


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "a/2", "-1/2", "2/2", "1/0", "1/2/3", "1\u0661/2"])
def test_no_share(text):
    with pytest.raises(OptionError, match="--shard"):
        find_share(text, {})


def test_an_environment_that_contradicts_itself():
    with pytest.raises(OptionError, match="are no share"):
        find_share(None, {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "8"})


class TestRanks:
    @staticmethod
    def run(work, count=3):
        store, ended = HashStore(), {}
        store.set_timeout(timedelta(seconds=20))

        def one(number):
            try:
                ended[number] = work(Ranks(store, number, count))
            except Exception as error:
                ended[number] = error

        threads = [Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        return [ended[number] for number in range(count)]

    def test_take_everything_once_and_the_longest_first(self):
        taken = self.run(lambda ranks: list(ranks.take(ITEMS)))
        assert sorted(item.name for items in taken for item in items) == sorted(item.name for item in ITEMS)
        for items in taken:
            costs = [item.cost for item in items]
            assert costs == sorted(costs, reverse=True)

    def test_the_first_one_has_all_summaries(self):
        assert self.run(lambda ranks: ranks.gather({"rank": ranks.number})) == [
            [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            None,
            None,
        ]

    def test_must_find_the_same_items(self):
        first, *others = self.run(lambda ranks: list(ranks.take(ITEMS[: 60 - ranks.number])))
        assert isinstance(first, list)
        assert all(isinstance(error, RuntimeError) and "other pictures than rank 0" in str(error) for error in others)
