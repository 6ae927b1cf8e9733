"""A masked language model of the transformers library, run so that its head sees masked positions only."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.compute.device import autocast, is_out_of_memory, moved
from kdcache.errors import ModelError, first_line
from kdcache.files.strict_json import canonical_json, read_json
from kdcache.losses.projection import OutputLayer
from kdcache.teacher import trials
from kdcache.teacher.masking import MaskedViews
from kdcache.teacher.open_checkpoint import check_place, open_masked_lm
from kdcache.teacher.reduction import Predictions, Reduction
from kdcache.text.tokenizer import Tokenizer
from kdcache.training.checkpoint import save_model

# Parts of a configuration that say where a model comes from or how it is used, not what it computes.
_NOT_COMPUTED = frozenset(
    {"architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "id2label", "label2id"}
)
_UNBOUNDED = 1 << 20
# How models fail on inputs that they do not take.
_FAILURES = (IndexError, MemoryError, RuntimeError, TypeError, ValueError, AttributeError)


class Teacher:
    """A masked language model and its tokenizer.

    Attributes:
        model: an `AutoModelForMaskedLM`.
        tokenizer: shared with cache and students.
        positions: tokens that the model takes at most.
        segments: whether it reads segment ids.

    Raises:
        ModelError: the output layer is not one linear layer over the vocabulary, or the answers to a view depend on
            what is computed beside or before it.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, config: dict[str, Any] | None = None) -> None:
        self.model, self._by_library = model, False
        self._config = model.config.to_dict() if config is None else config
        self.tokenizer = tokenizer
        self.segments = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._decoder = model.get_output_embeddings()
        self._cut: nn.Module | None = None
        if getattr(model.config, "is_encoder_decoder", False):
            raise self._refusal("is an encoder with a decoder, and a teacher is an encoder alone")
        if not isinstance(self._decoder, nn.Linear):
            raise self._refusal("has no linear output layer")
        self.model.eval()
        self.positions, self._padding = self._tried()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a trained teacher.

        Raises:
            ModelError: the folder does not hold one.
        """
        if not folder.is_dir():
            raise ModelError(f"{folder}: there is no such folder, so no teacher. Make one with kdcache teacher-train.")
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no teacher here (no config.json). Make one with kdcache teacher-train.")
        check_place(str(folder), "--teacher")
        tokenizer = Tokenizer.load(folder)
        model, missing = open_masked_lm(str(folder), "--teacher")
        if missing:
            raise ModelError(f"{folder}: lacks trained weights ({', '.join(missing[:3])}). It is no trained teacher.")
        if tokenizer.size > model.config.vocab_size:
            raise ModelError(f"{folder}: {tokenizer.size} pieces, but the model has {model.config.vocab_size} rows.")
        # The file, not the library's object: the defaults that it fills in differ between versions.
        return cls(model, tokenizer, read_json(folder / "config.json"))

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder."""
        save_model(self.model, folder)
        self.tokenizer.save(folder, max_length=self.positions, segments=self.segments)

    @property
    def output_layer(self) -> OutputLayer:
        """The product with the vocabulary matrix, which `hidden` leaves to the caller."""
        return OutputLayer(self._decoder.weight, self._decoder.bias)

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Size of the output vocabulary."""
        return int(self._decoder.weight.shape[0])

    def by_library(self) -> Self:
        """The same teacher, but one that answers each view by itself through the library alone."""
        other = copy.copy(self)
        other._by_library = True
        return other

    def whole(self) -> Self:
        """The same teacher, but one whose last layer works on all tokens, as in kdcache 0.1.0."""
        other = copy.copy(self)
        other._cut = None
        return other

    def as_in(self, fingerprint: str) -> Self:
        """The same teacher, `whole` where only that has this fingerprint; labels differ by rounding."""
        whole = self.whole()
        return whole if whole.fingerprint() == fingerprint else self

    @property
    def weights(self) -> int:
        """Number of weights that work on every token: all but those of the embeddings."""
        embeddings = {id(one.weight) for one in self.model.modules() if isinstance(one, nn.Embedding)}
        return sum(one.numel() for one in self.model.parameters() if id(one) not in embeddings)

    def hidden(self, views: MaskedViews, device: torch.device) -> Tensor:
        """Hidden states at the masked positions, ready for `output_layer`: `[masked, width]`."""
        if self._padding is Padding.NONE and int(views.lengths.min()) < views.input_ids.shape[1]:
            return torch.cat([self.hidden(part, device) for part in views.of_one_length()])
        inputs = self._inputs(views, device) | {"attention_mask": self.attention(views, device)}
        masked = to_device(views.masked, device)
        with _on_masked(self.model.base_model, self._cut, views.shape, masked), _computing(self._decoder, _unchanged):
            output = self.model(**inputs)
        hidden: Tensor = output.logits[0]
        return hidden

    def _logits(self, views: MaskedViews, device: torch.device) -> Tensor:
        if self._by_library:
            return self.library_logits(views, device)
        return self.output_layer.exact_logits(self.hidden(views, device))

    def _inputs(self, views: MaskedViews, device: torch.device) -> dict[str, Tensor | None]:
        inputs: dict[str, Tensor | None] = {"input_ids": to_device(views.input_ids, device)}
        if self.segments:
            inputs["token_type_ids"] = to_device(views.segment_ids, device)
        return inputs

    def attention(self, views: MaskedViews, device: torch.device) -> Tensor | None:
        """Which tokens may be looked at: all but padding, `[views, 1, 1, length]` or `[views, length]`."""
        length = views.input_ids.shape[1]
        if int(views.lengths.min()) == length:
            # Without padding no mask is passed, which leaves the fastest attention open.
            return None
        mask = to_device(np.arange(length) < views.lengths[:, None], device)
        # One of four dimensions is taken as it is; for others the host waits to hear whether they mask anything.
        return mask[:, None, None] if self._padding is Padding.WIDE_MASK else mask.long()

    @torch.inference_mode()
    def log_probs(self, views: MaskedViews, device: torch.device, precision: str) -> Tensor:
        """Log-probabilities of all words at the masked positions, float32 `[masked, vocabulary]`."""
        with autocast(device, precision):
            logits = self._logits(views, device)
        return torch.log_softmax(logits, dim=-1)

    @torch.inference_mode()
    def predict(self, views: MaskedViews, reduction: Reduction, device: torch.device, precision: str) -> Predictions:
        """The part of the distributions at the masked positions that `reduction` keeps."""
        return reduction(self.log_probs(views, device, precision), views.labels, views.target_rows)

    def fingerprint(self) -> str:
        """SHA-256 of the parameters (name, type, shape, bytes) and of the configuration that the forward pass reads."""
        digest = hashlib.sha256()
        computed = {k: v for k, v in self._config.items() if k not in _NOT_COMPUTED and not k.startswith("_")}
        digest.update(canonical_json(computed))
        for name, parameter in sorted(self.model.named_parameters()):
            tensor = parameter.detach().cpu().contiguous()
            digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
            digest.update(tensor.view(torch.uint8).numpy().data)
        # Caches of version 0.1.0 hold what the first way gave; where that was wrong, they must not be continued.
        if self._padding is not (Padding.WIDE_MASK if self._fused else Padding.MASK):
            digest.update(self._padding.name.encode())
        if self._cut is not None:
            digest.update(b"LAST_LAYER_ON_MASKED")
        return digest.hexdigest()

    @torch.inference_mode()
    def library_logits(self, views: MaskedViews, device: torch.device) -> Tensor:
        """What the library itself answers to each view by itself, without anything of ours: `[masked, vocabulary]`.

        Only the product with the vocabulary matrix is in float32 under autocast, too, as in `OutputLayer`.
        """
        found = []
        for row in range(len(views.lengths)):
            view = views.rows(row, row + 1)
            inputs = self._inputs(view, device) | {"attention_mask": to_device(np.ones_like(view.input_ids), device)}
            with _computing(self._decoder, self._exact_at(to_device(view.masked, device))):
                found.append(self.model(**inputs).logits[0].float())
        return torch.cat(found)

    def _exact_at(self, places: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda states: self.output_layer.exact_logits(states[:, places])

    def _tried(self) -> tuple[int, Padding]:
        """Tokens that a view may have, and how views of several lengths are run, both found by trying.

        Raises:
            ModelError: nothing that was tried gives what the library answers to each view by itself.
        """
        device = next(self.model.parameters()).device
        answers: dict[int, Tensor] = {}

        def run(length: int) -> None:
            answers[length] = self.library_logits(trials.trial_views(self.tokenizer, (length,)), device)

        positions, tabulated = _declared_positions(self.model)
        try:
            if positions <= trials.LONG or tabulated:
                positions = trials.longest(positions, self.tokenizer.special.pad, run)
            lengths = _trial_lengths(positions)
            # The long one first: there are models that change for good when they see a short view.
            for length in lengths:
                if length not in answers:
                    run(length)
            self._check_output_layer(trials.trial_views(self.tokenizer, lengths[1:]), device)
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise self._too_large(trials.trial_views(self.tokenizer, (positions,))) from error
            raise self._refusal(f"cannot be run as other models are ({first_line(error)})") from error
        expected = torch.cat([answers[length] for length in lengths])
        views = trials.trial_views(self.tokenizer, lengths)
        self._cut = self._cut_that_gives_the_same(2 * (min(positions, trials.ODD),))
        return positions, self._padding_that_gives(expected, views, device)

    @torch.inference_mode()
    def _check_output_layer(self, views: MaskedViews, device: torch.device) -> None:
        """Compare our way through the head with the model's own, on one view without padding."""
        self._padding = Padding.MASK
        expected = self.model(**self._inputs(views, device)).logits[0].float()[to_device(views.masked, device)]
        if not trials.same_answers(expected, self._logits(views, device)):
            raise self._refusal("does more after its last linear layer than that layer")

    @torch.inference_mode()
    def _cut_that_gives_the_same(self, lengths: tuple[int, ...]) -> nn.Module | None:
        """The first module of the last layer that may get the masked positions alone, if there is one."""
        views = trials.trial_views(self.tokenizer, lengths)
        device, place = next(self.model.parameters()).device, int(views.masked[0])
        with self._within_memory(views):
            expected = self._logits(views, device)

        def alone(states: Tensor) -> Tensor:
            kept = torch.full_like(states, torch.nan)
            kept.flatten(0, 1)[place] = states.flatten(0, 1)[place]
            return kept

        for cut in trials.last_layer(self.model.base_model):
            self._cut = cut
            # However small its weights are, attention would spread what is no number to the one position that is left.
            spoiling = cut.register_forward_pre_hook(_changing(views.shape, alone), with_kwargs=True)
            try:
                with self._within_memory(views):
                    found = self._logits(views, device)
            except _FAILURES:
                continue
            finally:
                spoiling.remove()
            if trials.same_answers(expected[:1], found[:1]):
                return cut
        return None

    @torch.inference_mode()
    def _padding_that_gives(self, expected: Tensor, views: MaskedViews, device: torch.device) -> Padding:
        """The first way of running views beside each other that changes no answer."""
        for padding in list(Padding) if self._fused else list(Padding)[1:]:
            self._padding = padding
            try:
                with self._within_memory(views):
                    found = self._logits(views, device)
            except _FAILURES:
                continue
            if trials.same_answers(expected, found):
                return padding
        # BigBird can be told to attend to everything, always.
        sparse = getattr(self.model.config, "attention_type", None) == "block_sparse"
        raise self._refusal(
            "answers the same view differently beside or after others, or each time",
            " Set attention_type to original_full in its config.json." if sparse else "",
        )

    @torch.inference_mode()
    def check_run(self, device: torch.device, precision: str) -> None:
        """Try on the device and in the precision of a run what was tried on a CPU in float32.

        Raises:
            ModelError: views beside each other get other answers there than each by itself.
        """
        if device.type == "cpu" and precision == "float32":
            return
        views = trials.trial_views(self.tokenizer, _trial_lengths(self.positions))
        with self._within_memory(views), autocast(device, precision):
            expected = self.library_logits(views, device)
            found = self._logits(views, device)
        if not trials.same_answers(expected, found, trials.ROUNDED[precision]):
            raise self._refusal(
                f"answers the same view differently beside others in {precision}", " Try --precision float32."
            )

    @property
    def _fused(self) -> bool:
        return getattr(self.model.config, "_attn_implementation", None) == "sdpa"

    @contextmanager
    def _within_memory(self, views: MaskedViews) -> Iterator[None]:
        """Say which views memory does not suffice for."""
        try:
            yield
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise self._too_large(views) from error
            raise

    def _too_large(self, views: MaskedViews) -> ModelError:
        longest = int(views.lengths.max())
        return ModelError(
            f"{type(self.model).__name__}: the memory does not suffice to try it with {longest} tokens. Use a "
            "machine or a device with more memory, or a smaller model."
        )

    def _refusal(self, why: str, remedy: str = "") -> ModelError:
        return ModelError(f"{type(self.model).__name__} {why}; kdcache cannot use it as a teacher.{remedy}")


class Padding(Enum):
    """How views of several lengths are run together; a model takes the first that leaves its answers alone.

    WIDE_MASK hands the fused attention a mask of four dimensions, which replaces whatever else the model masks; MASK
    hands on one of two, as the library's own callers do; NONE runs each length by itself.
    """

    WIDE_MASK = 1
    MASK = 2
    NONE = 3


@contextmanager
def _computing(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While active, a module computes something else."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def _changing(
    shape: tuple[int, int], change: Callable[[Tensor], Tensor]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, Any]]:
    """A hook that changes the states of views of this shape, `[views, length, width]`, before a module gets them."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == shape else value

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(map(changed, inputs)), {name: changed(value) for name, value in named.items()}

    return before


@contextmanager
def _on_masked(encoder: nn.Module, cut: nn.Module | None, shape: tuple[int, int], masked: Tensor) -> Iterator[None]:
    """While active, the encoder returns the states at `masked` positions only; of views of this shape.

    So the head's own transformation runs on few positions. The last layer does, too, from the module `cut` on, which
    gets these states alone. Any masked language model of the library whose head ends in a linear layer can be used
    without knowing how its modules are called.
    """

    def chosen(states: Tensor) -> Tensor:
        return states.flatten(0, 1).index_select(0, masked)[None]

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if cut is None:
            output.last_hidden_state = chosen(output.last_hidden_state)
        if output.last_hidden_state.shape[:2] != (1, len(masked)):
            raise RuntimeError("the encoder's states are not those of the masked positions")
        return output

    with ExitStack() as hooks:
        hooks.callback(encoder.register_forward_hook(after).remove)
        if cut is not None:
            hooks.callback(cut.register_forward_pre_hook(_changing(shape, chosen), with_kwargs=True).remove)
        yield


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """An array as a tensor on the device."""
    return moved(torch.from_numpy(array), device)


def _trial_lengths(positions: int) -> tuple[int, int]:
    return min(positions, trials.LONG), min(positions, trials.SHORT)


def _declared_positions(model: Any) -> tuple[int, bool]:
    """Tokens that fit according to a model itself, and whether it has a table of positions."""
    most = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    most = tables[-1] if tables else most
    return (most if most > 0 else _UNBOUNDED), bool(tables)
