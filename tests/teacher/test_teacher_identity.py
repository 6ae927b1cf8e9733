"""Which teacher a folder holds, and folders that hold none."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import all_lines, save_bert

from kdcache.errors import ModelError, UsageError
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.text.corpus import Corpus, TextFiles


def test_unknown_scratch_name(small_text: TextFiles) -> None:
    """Another scratch: name is refused, naming the one there is."""
    with pytest.raises(UsageError, match=r"scratch:huge.*scratch:tiny"):
        prepare_teacher("scratch:huge", Corpus(small_text), trim_vocab=True, seed=1)


@pytest.mark.parametrize("name", ["no-such-organisation/no-such-model", "/no/such/folder", "bert-base-nowhere"])
def test_what_cannot_be_opened_names_the_way_out(
    name: str, small_text: TextFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub name without a network, or a folder that is not there, is one clear error that names scratch:tiny."""

    def no_network(*_args: object, **_more: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(ModelError) as caught:
        prepare_teacher(name, Corpus(small_text), trim_vocab=True, seed=1)
    message = str(caught.value)
    assert message.startswith(f"--bert {name}: cannot be opened: ")
    assert message.endswith("--bert scratch:tiny.")
    assert "\n" not in message


def test_a_folder_without_a_model_is_refused(small_bert: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """A tokenizer without weights, and weights without a tokenizer, are clear errors."""
    shutil.copytree(small_bert, tmp_path / "weightless")
    (tmp_path / "weightless" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="scratch:tiny"):
        prepare_teacher(str(tmp_path / "weightless"), Corpus(small_text), trim_vocab=True, seed=1)
    shutil.copytree(small_bert, tmp_path / "wordless")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "wordless" / name).unlink()
    with pytest.raises(ModelError, match="no vocabulary"):
        prepare_teacher(str(tmp_path / "wordless"), Corpus(small_text), trim_vocab=True, seed=1)


def test_a_tokenizer_of_another_model_is_refused(small_bert: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """A tokenizer with more pieces than the model has rows is refused with both numbers."""
    save_bert(tmp_path / "bert", all_lines(small_text), vocab_size=50)
    with pytest.raises(ModelError, match=r"\d+ pieces.*has 50 rows"):
        prepare_teacher(str(tmp_path / "bert"), Corpus(small_text), trim_vocab=False, seed=1)


def test_loading_refuses_what_is_no_trained_teacher(small_text: TextFiles, small_teacher: Path, tmp_path: Path) -> None:
    """dump-logits' --teacher must be a folder with a head, and says what else it found."""
    with pytest.raises(ModelError, match=r"no config\.json.*teacher-train"):
        Teacher.load(tmp_path / "nothing")
    folder = save_bert(tmp_path / "encoder", all_lines(small_text), head=False)
    shutil.copy(small_teacher / "tokenizer_config.json", folder)
    with pytest.raises(ModelError, match="lacks trained weights"):
        Teacher.load(folder)
    shutil.copytree(small_teacher, tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no usable tokenizer"):
        Teacher.load(tmp_path / "bare")


def _change(name: str) -> Callable[[torch.nn.Module], None]:
    def change(model: torch.nn.Module) -> None:
        with torch.no_grad():
            parameter = dict(model.named_parameters())[name].view(-1)
            parameter[-1] = torch.nextafter(parameter[-1], torch.tensor(float("inf")))

    return change


def test_fingerprint_changes_with_any_weight(small_teacher: Path, tmp_path: Path) -> None:
    """The smallest change of any one parameter changes the fingerprint; the folder's name and a copy do not."""
    teacher = Teacher.load(small_teacher)
    shutil.copytree(small_teacher, tmp_path / "another name")
    assert Teacher.load(tmp_path / "another name").fingerprint() == teacher.fingerprint()
    seen = {teacher.fingerprint()}
    names = [name for name, _ in teacher.model.named_parameters()]
    for name in names:
        _change(name)(teacher.model)
        seen.add(teacher.fingerprint())
    assert len(seen) == len(names) + 1


def test_fingerprint_reads_what_the_forward_pass_reads(small_teacher: Path, tmp_path: Path) -> None:
    """Another activation or epsilon is another teacher; where it came from and who wrote it do not matter."""
    text = (small_teacher / "config.json").read_text()
    prints = []
    for change in (
        ("", ""),
        ('"transformers_version": "', '"transformers_version": "9.'),
        ('"use_cache": true', '"use_cache": false'),
        ('"hidden_act": "gelu"', '"hidden_act": "relu"'),
        ('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-05'),
    ):
        folder = tmp_path / str(len(prints))
        shutil.copytree(small_teacher, folder)
        assert change[0] in text
        (folder / "config.json").write_text(text.replace(*change) if change[0] else text)
        prints.append(Teacher.load(folder).fingerprint())
    assert prints[0] == prints[1] == prints[2]
    assert len({prints[0], prints[3], prints[4]}) == 3
