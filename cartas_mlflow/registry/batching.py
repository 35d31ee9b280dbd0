"""Requests that arrive while another one is being answered are answered together: one generation for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

Generate = Callable[[Sequence[str]], list[str]]
"""Prompts -> texts, the same number for each prompt, in the order of the prompts."""


@dataclass(eq=False)
class _Request:
    prompts: Sequence[str]
    kind: Hashable
    texts: Future[list[str]] = field(default_factory=Future)


@dataclass
class RequestBatcher:
    """One generation at a time. Who gets its turn takes along all those in line that ask for the same kind of texts."""

    _turn: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[_Request] = field(default_factory=list)

    def answer(self, prompts: Sequence[str], kind: Hashable | None, generate: Generate) -> list[str]:
        """The texts for the prompts.

        Args:
            kind: requests of equal kinds may share a generation: what one's ``generate`` writes for a prompt, the
                other's would have written too, whatever the company. None: this request shares with nobody.
        """
        request = _Request(prompts, object() if kind is None else kind)
        self._waiting.append(request)
        with self._turn:
            if not request.texts.done():
                self._answer_together([other for other in self._waiting if other.kind == request.kind], generate)
        return request.texts.result()

    def _answer_together(self, requests: Sequence[_Request], generate: Generate) -> None:
        for request in requests:
            self._waiting.remove(request)
        prompts = [prompt for request in requests for prompt in request.prompts]
        try:
            texts = generate(prompts)
        except BaseException as error:
            for request in requests:
                request.texts.set_exception(error)
            return
        each, start = len(texts) // len(prompts) if prompts else 0, 0
        for request in requests:
            end = start + each * len(request.prompts)
            request.texts.set_result(texts[start:end])
            start = end
