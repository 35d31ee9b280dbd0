"""Several threads ask at once: who shares a generation, and who gets what."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from cartas_mlflow.registry.batching import RequestBatcher


class Engine:
    """Writes the prompt in capitals; the first generation lasts until ``release``."""

    def __init__(self, each: int = 1) -> None:
        self.each, self.batches = each, []
        self.began, self.release = threading.Event(), threading.Event()

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        self.batches.append(list(prompts))
        self.began.set()
        assert self.release.wait(10)
        if "boom" in prompts:
            raise RuntimeError("the engine broke")
        return [f"{prompt.upper()}{number}" for prompt in prompts for number in range(self.each)]


def ask_at_once(
    batcher: RequestBatcher, engine: Engine, *asked: tuple[list[str], str | None]
) -> list[Future[list[str]]]:
    """The first request is being answered while all the others arrive."""
    with ThreadPoolExecutor(len(asked)) as threads:
        futures = [threads.submit(batcher.answer, *asked[0], engine)]
        assert engine.began.wait(10)
        for place, (prompts, kind) in enumerate(asked[1:], start=1):
            futures.append(threads.submit(batcher.answer, prompts, kind, engine))
            deadline = time.monotonic() + 10
            while len(batcher._waiting) < place and time.monotonic() < deadline:
                time.sleep(0.001)
        engine.release.set()
    return futures


def test_requests_that_wait_share_the_next_generation_and_get_their_own_texts() -> None:
    engine = Engine()
    futures = ask_at_once(RequestBatcher(), engine, (["a"], "k"), (["b", "c"], "k"), ([], "k"), (["d"], "k"))
    assert [future.result() for future in futures] == [["A0"], ["B0", "C0"], [], ["D0"]]
    assert engine.batches == [["a"], ["b", "c", "d"]]


def test_several_texts_for_a_prompt_stay_together() -> None:
    engine = Engine(each=2)
    futures = ask_at_once(RequestBatcher(), engine, (["a"], "k"), (["b", "c"], "k"), (["d"], "k"))
    assert [future.result() for future in futures] == [["A0", "A1"], ["B0", "B1", "C0", "C1"], ["D0", "D1"]]


def test_other_kinds_of_texts_are_generated_on_their_own() -> None:
    engine = Engine()
    futures = ask_at_once(RequestBatcher(), engine, (["a"], "k"), (["b"], "k"), (["c"], "other"), (["d"], "k"))
    assert [future.result() for future in futures] == [["A0"], ["B0"], ["C0"], ["D0"]]
    assert sorted(engine.batches) == [["a"], ["b", "d"], ["c"]]


def test_a_request_that_shares_with_nobody_is_generated_alone() -> None:
    engine = Engine()
    futures = ask_at_once(RequestBatcher(), engine, (["a"], None), (["b"], None), (["c"], None))
    assert [future.result() for future in futures] == [["A0"], ["B0"], ["C0"]]
    assert sorted(engine.batches) == [["a"], ["b"], ["c"]]


def test_a_generation_that_fails_fails_those_that_share_it_and_nobody_else() -> None:
    engine, batcher = Engine(), RequestBatcher()
    futures = ask_at_once(batcher, engine, (["a"], "k"), (["boom"], "k"), (["b"], "k"), (["c"], "other"))
    assert futures[0].result() == ["A0"]
    for future in futures[1:3]:
        with pytest.raises(RuntimeError, match="the engine broke"):
            future.result()
    assert futures[3].result() == ["C0"]
    assert batcher.answer(["d"], "k", engine) == ["D0"]
