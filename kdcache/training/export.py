"""Writing a trained model for others to use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def save_model(model: Any, folder: Path) -> None:
    """Write a `PreTrainedModel` as an ordinary Hugging Face folder.

    The weights become readable for whoever may read the configuration; safetensors 0.8 writes them for their owner.
    """
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)
