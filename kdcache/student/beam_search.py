"""Beam search of a Transformer student: the texts of the library's own search, in less time.

Two things make the difference. The library works on every source until the last one of its batch has ended; here those
that have ended leave the batch. And the library copies keys and values after each word, since hypotheses change places;
here the hypotheses of a source stand side by side, like words of one text, their keys and values stay where they are,
and a mask says which of them each hypothesis sees. So the encoder's states are not repeated for each hypothesis either.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache, EncoderDecoderCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from kdcache.compute.device import is_out_of_memory

# The library's score for what does not count.
_NONE = -1e9
# Sources leave when they are so large a part of the batch, since those that stay are copied then.
_LEAVING = 0.125
# Far above what rounding does to a log-probability in float32, and below what another computation gives.
_TOLERANCE = 1e-3


def beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **inputs: Any,
) -> Tensor:
    """What a Transformer's `generate` calls instead of its own loop, given as its `custom_generate`.

    Args:
        model: an `M2M100ForConditionalGeneration`.
        input_ids: int64 `[sources · beams, 1]`, start tokens.
        logits_processor: changes log-probabilities `[sources · beams, vocabulary]`.
        stopping_criteria: says which hypotheses end.
        generation_config: beams, length penalty, limits.
        inputs: encoder_outputs and attention_mask, repeated for each beam.

    Returns:
        The best hypothesis for each source: int64 `[sources, length]`.
    """
    beams = generation_config.num_beams or 1
    states, mask = inputs["encoder_outputs"].last_hidden_state[::beams], inputs["attention_mask"][::beams]
    decoder = _Decoder(model, states, mask, beams)
    search = _Search(input_ids.reshape(-1, beams, input_ids.shape[1]), generation_config)
    while True:
        log_probs = decoder.log_probs(search.running[:, :, -1])
        log_probs = logits_processor(search.running.flatten(0, 1), log_probs)  # type: ignore[arg-type]
        decoder.follow(search.extend(log_probs.reshape(-1, beams, log_probs.shape[1]), stopping_criteria))
        if (staying := search.leave()) is not None:
            if not len(staying):
                return search.found[:, : search.length]
            decoder.keep(staying)


@torch.inference_mode()
def suits(model: Any) -> bool:
    """Whether this search computes what the model does: it uses parts that another version of the library may change.

    Compared are the log-probabilities of three words behind a source of two.
    """
    words = torch.full((1, 3), model.config.decoder_start_token_id, device=model.device)
    source = words[:, :2]
    try:
        found = model(input_ids=source, decoder_input_ids=words, use_cache=False)
        expected = functional.log_softmax(found.logits[0], dim=-1, dtype=torch.float32)
        decoder = _Decoder(model, found.encoder_last_hidden_state, torch.ones_like(source), 1)
        steps = []
        for word in words.T:
            steps.append(decoder.log_probs(word[:, None]))
            decoder.follow(torch.zeros_like(word[:, None]))
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return torch.allclose(torch.cat(steps), expected, atol=_TOLERANCE)


class _Decoder:
    """The decoder of a model, over `beams` hypotheses for each source."""

    def __init__(self, model: Any, states: Tensor, source_mask: Tensor, beams: int) -> None:
        self._head, self._decoder, self._states = model.lm_head, model.model.decoder, states
        self._source_mask = source_mask.bool()[:, None, None]
        count = len(self._decoder.layers)
        own: list[Any] = [_RoomyLayer() for _ in range(count)]  # type: ignore[no-untyped-call]
        cross: list[Any] = [DynamicLayer() for _ in range(count)]  # type: ignore[no-untyped-call]
        self._layers = [*own, *cross]
        # The library calls it otherwise since version 5.24.
        name = (
            "cache" if "cache" in inspect.signature(self._decoder.layers[0].forward).parameters else "past_key_values"
        )
        self._cache = {name: EncoderDecoderCache(Cache(own), Cache(cross))}
        # Which positions each hypothesis sees, [sources, 1, beams, words · beams]: its own.
        self._sees = torch.eye(beams, dtype=torch.bool, device=states.device).expand(len(states), 1, beams, beams)
        self._alone = self._sees[:1]
        self._length = 0

    def log_probs(self, words: Tensor) -> Tensor:
        """Of what follows the last words `[sources, beams]`: float32 `[sources · beams, vocabulary]`."""
        positions = self._decoder.embed_positions(words.reshape(-1, 1), None, self._length)
        hidden = self._decoder.embed_tokens(words) + positions.view(*words.shape, -1)
        for layer in self._decoder.layers:
            hidden = layer(hidden, self._sees, self._states, encoder_attention_mask=self._source_mask, **self._cache)
            if isinstance(hidden, tuple):  # as in transformers 5.0
                hidden = hidden[0]
        self._length += 1
        logits = self._head(self._decoder.layer_norm(hidden)).flatten(0, 1)
        return functional.log_softmax(logits, dim=-1, dtype=torch.float32)

    def follow(self, parents: Tensor) -> None:
        """The next words go behind the hypotheses `parents` `[sources, beams]`."""
        seen = torch.take_along_dim(self._sees, parents[:, None, :, None], dim=2)
        self._sees = torch.cat([seen, self._alone.expand(len(seen), -1, -1, -1)], dim=3)

    def keep(self, sources: Tensor) -> None:
        """Go on with these sources."""
        self._sees, self._source_mask, self._states = (
            one[sources] for one in (self._sees, self._source_mask, self._states)
        )
        for layer in self._layers:
            layer.batch_select_indices(sources)


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values `[sources, heads, positions, width]` with room behind them, so that a word copies itself only."""

    _room: tuple[Tensor, ...] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones behind the others."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, (rows, heads, new, width) = self.get_seq_length(), key_states.shape
        after = before + new
        if self._room is None or self._room[0].shape[0] != rows or self._room[0].shape[2] < after:
            self._room = tuple(one.new_empty(rows, heads, 2 * after, width) for one in (key_states, value_states))
            if before:
                self._room[0][:, :, :before] = self.keys  # type: ignore[assignment]
                self._room[1][:, :, :before] = self.values  # type: ignore[assignment]
        for room, added in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, before:after] = added
        keys, values = (room[:, :, :after] for room in self._room)
        self.keys, self.values = keys, values
        return keys, values


class _Search:
    """Hypotheses of every source and their scores, with the rules of the library's `generate`.

    Attributes:
        running: those that go on, int64 `[sources, beams, length]`.
        length: tokens of each.
        found: the best that ended, of every source that has left: int64 `[sources at first, most tokens]`.
    """

    def __init__(self, prompts: Tensor, config: GenerationConfig) -> None:
        count, beams, self.length = prompts.shape
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        self._config, self._start = config, self.length
        # Enough for `beams` to go on where all others end.
        self._tried = max(2, 1 + len(ends)) * beams
        self.found = torch.full((count, config.max_length), config.pad_token_id, device=prompts.device)
        self._rows = torch.arange(count, device=prompts.device)
        none = torch.full((count, beams), _NONE, device=prompts.device)
        self.running, self._scores = prompts, none.clone()
        # The first words of all beams are the same, and one of them counts.
        self._scores[:, 0] = 0
        self._ended, self._ended_scores = prompts, none
        self._is_ended = none > _NONE
        self._improvable = torch.ones_like(none[:, :1], dtype=torch.bool)
        self._over = False

    def extend(self, log_probs: Tensor, stopping_criteria: StoppingCriteriaList) -> Tensor:
        """Append a word, given the log-probabilities `[sources, beams, vocabulary]`.

        Returns:
            The place that each running hypothesis had before: int64 `[sources, beams]`.
        """
        beams, size = log_probs.shape[1:]
        scores, places = (log_probs + self._scores[:, :, None]).flatten(1).topk(self._tried)
        parents = places // size
        tried = torch.cat([_taken(self.running, parents), (places % size)[:, :, None]], dim=2)
        ends = stopping_criteria(tried.flatten(0, 1), None).reshape(-1, self._tried)
        self._over = bool(ends.all())
        self.length += 1
        self._end(tried, scores, ends & (torch.arange(self._tried, device=ends.device) < beams))
        going = scores + ends * _NONE
        chosen = going.topk(beams)[1]
        self.running, self._scores = _taken(tried, chosen), _taken(going, chosen)
        self._improvable &= self._can_improve()
        return _taken(parents, chosen)

    def _end(self, tried: Tensor, scores: Tensor, ending: Tensor) -> None:
        """Keep the best of those that ended before and those of `tried` that are `ending`."""
        scores = scores / (self.length - self._start) ** self._config.length_penalty
        scores += ~ending * _NONE
        scores += ~(self._improvable & ~self._is_full()) * _NONE
        self._ended_scores, chosen = torch.cat([self._ended_scores, scores], dim=1).topk(self._scores.shape[1])
        self._ended = _taken(
            torch.cat([functional.pad(self._ended, (0, 1), value=self._config.pad_token_id), tried], dim=1), chosen
        )
        self._is_ended = _taken(torch.cat([self._is_ended, ending], dim=1), chosen)

    def _is_full(self) -> Tensor:
        """Whether nothing more is asked for where all beams have ended: `[sources, 1]`."""
        return self._is_ended.all(dim=1, keepdim=True) & (self._config.early_stopping is True)

    def _can_improve(self) -> Tensor:
        """Whether the best that runs could come before the worst that ended: `[sources, 1]`."""
        config = self._config
        longest = config.early_stopping == "never" and config.length_penalty > 0
        length = (config.max_length if longest else self.length) - self._start
        worst = torch.where(self._is_ended, self._ended_scores.min(dim=1, keepdim=True)[0], _NONE)
        best: Tensor = self._scores[:, :1] / length**config.length_penalty
        return (best > worst).any(dim=1, keepdim=True)

    def leave(self) -> Tensor | None:
        """Let sources leave that have ended, if they are many; return the places of those that stay."""
        leaving = (~self._improvable | self._is_full())[:, 0] | self._over
        count = int(leaving.sum())
        if count < max(1, _LEAVING * len(leaving)):
            return None
        self.found[self._rows[leaving], : self.length] = self._ended[leaving, 0]
        staying = (~leaving).nonzero()[:, 0]
        for name in ("_rows", "running", "_scores", "_ended", "_ended_scores", "_is_ended", "_improvable"):
            setattr(self, name, getattr(self, name)[staying])
        return staying


def _taken(of: Tensor, places: Tensor) -> Tensor:
    """What stands at `places` `[sources, m]` of `[sources, n, …]`: `[sources, m, …]`."""
    return torch.take_along_dim(of, places if of.dim() == 2 else places[:, :, None], dim=1)
