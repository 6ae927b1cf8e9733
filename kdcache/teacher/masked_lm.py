"""A masked language model of the transformers library, run so that its head sees masked positions only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from kdcache.compute.device import autocast, moved
from kdcache.errors import ModelError
from kdcache.files.strict_json import canonical_json, read_json
from kdcache.losses.projection import OutputLayer
from kdcache.teacher.masking import MaskedViews
from kdcache.teacher.reduction import Predictions, Reduction
from kdcache.text.tokenizer import Tokenizer
from kdcache.training.checkpoint import save_model

# Parts of a configuration that say where a model comes from or how it is used, not what it computes.
_NOT_COMPUTED = frozenset(
    {"architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "id2label", "label2id"}
)
_PROBE_LENGTH = 8


class Teacher:
    """A masked language model and its tokenizer.

    Attributes:
        model: an `AutoModelForMaskedLM`.
        tokenizer: shared with cache and students.
        positions: tokens that the model takes at most.
        segments: whether it reads segment ids.

    Raises:
        ModelError: the output layer is not one linear layer over the vocabulary.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, config: dict[str, Any] | None = None) -> None:
        self.model = model
        self._config = model.config.to_dict() if config is None else config
        self.tokenizer = tokenizer
        self.positions = _positions(model)
        self.segments = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self._decoder = model.get_output_embeddings()
        if not isinstance(self._decoder, nn.Linear):
            raise ModelError(f"{type(model).__name__} has no linear output layer; kdcache cannot use it as a teacher.")
        self._check_output_layer()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a trained teacher.

        Raises:
            ModelError: the folder does not hold one.
        """
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no teacher here (no config.json). Make one with kdcache teacher-train.")
        tokenizer = Tokenizer.load(folder)
        model, missing = open_masked_lm(str(folder))
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
        return int(self.model.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Size of the output vocabulary."""
        return int(self._decoder.weight.shape[0])

    def hidden(self, views: MaskedViews, device: torch.device) -> Tensor:
        """Hidden states at the masked positions, ready for `output_layer`: `[masked, width]`."""
        inputs = {"input_ids": to_device(views.input_ids, device), "attention_mask": self.attention(views, device)}
        if self.segments:
            inputs["token_type_ids"] = to_device(views.segment_ids, device)
        with _HeadOnMasked(self.model.base_model, self._decoder, to_device(views.masked, device)):
            output = self.model(**inputs)
        hidden: Tensor = output.logits[0]
        return hidden

    def attention(self, views: MaskedViews, device: torch.device) -> Tensor | None:
        """Which tokens may be looked at: all but padding, `[views, 1, 1, length]` or `[views, length]`."""
        length = views.input_ids.shape[1]
        if int(views.lengths.min()) == length:
            # Without padding no mask is passed, which leaves the fastest attention open.
            return None
        mask = to_device(np.arange(length) < views.lengths[:, None], device)
        # One of four dimensions is taken as it is; for others the host waits to hear whether they mask anything.
        return mask[:, None, None] if self._fused else mask.long()

    @torch.inference_mode()
    def log_probs(self, views: MaskedViews, device: torch.device, precision: str) -> Tensor:
        """Log-probabilities of all words at the masked positions, float32 `[masked, vocabulary]`."""
        with autocast(device, precision):
            hidden = self.hidden(views, device)
            logits = self.output_layer.exact_logits(hidden)
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
        return digest.hexdigest()

    @torch.inference_mode()
    def _check_output_layer(self) -> None:
        """Compare the logits of `hidden` and `output_layer` with those of the model itself, on a few tokens."""
        self.model.eval()
        special = self.tokenizer.special
        ids = np.full((1, _PROBE_LENGTH), special.mask, dtype=np.int64)
        every = np.arange(_PROBE_LENGTH)
        views = MaskedViews(ids, np.zeros_like(ids), np.array([_PROBE_LENGTH]), every, every, every)
        device = next(self.model.parameters()).device
        inputs = {"input_ids": to_device(ids, device)}
        expected = self.model(**inputs).logits[0].float()
        logits = self.output_layer.exact_logits(self.hidden(views, device))
        # A model that computes not-a-number passes here: the dump names the line at which it does.
        same = expected.shape == logits.shape and torch.allclose(expected, logits, atol=1e-3, rtol=1e-3, equal_nan=True)
        if not same:
            raise ModelError(
                f"{type(self.model).__name__} does more after its last linear layer than that layer; kdcache cannot "
                "use it as a teacher."
            )


class _HeadOnMasked:
    """While active, the encoder returns the states at `masked` positions only, and the last layer returns its input.

    So the head's own transformation runs on few positions, and the product with the vocabulary matrix is left to
    us: in float32, or inside the loss. Any masked language model of the library whose head ends in a linear layer
    can be used without knowing how its modules are called.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, masked: Tensor) -> None:
        self._encoder, self._decoder, self._masked = encoder, decoder, masked

    def __enter__(self) -> None:
        self._hook = self._encoder.register_forward_hook(self._select)
        self._decoder.forward = _unchanged

    def __exit__(self, *_error: object) -> None:
        self._hook.remove()
        del self._decoder.forward

    def _select(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states.reshape(-1, states.shape[-1])[self._masked][None]
        return output


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """An array as a tensor on the device."""
    return moved(torch.from_numpy(array), device)


def _positions(model: Any) -> int:
    """Tokens that fit: RoBERTa-like models number positions from the padding id on, and lose that many."""
    most = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    lost = 0
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            most = module.num_embeddings
            lost = 0 if module.padding_idx is None else module.padding_idx + 1
    return most - lost if most > 0 else 1 << 20


def open_masked_lm(name: str) -> tuple[Any, list[str]]:
    """Open a checkpoint as a masked language model in float32; return it and the weights that it lacked.

    Raises:
        ModelError: it cannot be found or opened; the message names the way out.
    """
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # the hub client and the library raise many kinds
        raise ModelError(hub_message(name, error)) from error
    # A tied weight has two names in a checkpoint and one among the parameters.
    return model, sorted({parameter for parameter, _ in model.named_parameters()} & set(report["missing_keys"]))


def hub_message(name: str, error: Exception) -> str:
    """Why a checkpoint could not be opened, and what can be done without a network."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"--bert {name}: cannot be opened: {first} Check the name or the network, give a folder with a downloaded "
        "checkpoint, or train a small one from nothing with --bert scratch:tiny."
    )
