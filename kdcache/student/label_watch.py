"""How far the labels of a cache are ahead of the student that learns from them."""

from dataclasses import asdict
from typing import Any

from kdcache.cache.reader import CacheReader
from kdcache.files.run_records import log
from kdcache.labels.verdict import UNKNOWN
from kdcache.text.corpus import Corpus


class LabelWatch:
    """Compares the teacher with the student, at each validation and at the end.

    It says at once what condemns the labels already, or that nothing is known of them.
    """

    def __init__(self, reader: CacheReader, valid: Corpus | None) -> None:
        figures = reader.teacher_figures()
        self._held_out, self._warned = figures.held_out, False
        self._same_text = valid is not None and self._held_out is not None and self._held_out.text == valid.fingerprint
        if self._held_out is None:
            log.info("%s", UNKNOWN)
        for line in figures.warnings():
            log.warning("%s", line)

    def validated(self, loss: float) -> None:
        """Warn, once, where labels are too little ahead of a student with this validation loss, in nats."""
        if self._held_out is None or self._warned or self._held_out.verdict(loss) != "cost":
            return
        self._warned = True
        log.warning("%s", self._held_out.comparison(loss, same_text=self._same_text))

    def conclusion(self, loss: float | None) -> dict[str, Any] | None:
        """What `run.json` says about the labels for a student with this validation loss; None if nothing is known."""
        if self._held_out is None or loss is None:
            return None
        log.info("%s", self._held_out.comparison(loss, same_text=self._same_text))
        return {
            "teacher": asdict(self._held_out),
            "same_text": self._same_text,
            "ahead": loss - self._held_out.loss,
            "verdict": self._held_out.verdict(loss),
        }
