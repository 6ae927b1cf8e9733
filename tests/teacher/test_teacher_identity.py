"""Which teacher a folder holds, and folders that hold none."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import all_lines, save_bert, steps
from safetensors.torch import load_file, save_file

from kdcache.errors import MismatchError, ModelError, UsageError
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
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


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "models/de/bert", "nothing/"])
def test_a_folder_that_does_not_exist_is_called_one(name: str, small_text: TextFiles) -> None:
    """What is written like a path is no name for the hub: the message says that there is no such folder."""
    with pytest.raises(ModelError, match="there is no such folder") as caught:
        prepare_teacher(name, Corpus(small_text), trim_vocab=True, seed=1)
    assert "network" not in str(caught.value)
    with pytest.raises(ModelError, match="there is no such folder"):
        Teacher.load(Path(name))


def test_asking_the_hub_is_said_before(
    small_text: TextFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hub that does not answer is silent for a minute: what is asked for is said before."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with caplog.at_level("INFO", logger="kdcache"), pytest.raises(ModelError, match="Check the name or the network"):
        prepare_teacher("bert-base-nowhere", Corpus(small_text), trim_vocab=True, seed=1)
    assert "bert-base-nowhere is no folder here: asking the Hugging Face hub" in caplog.text


@pytest.mark.parametrize("kind", ["m2m_100", "kdcache-rnn", "gpt2"])
def test_a_model_of_another_kind_is_named(
    kind: str, small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """A student, or any model that fills no masks, given as --bert or --teacher is refused by its type."""
    folder = tmp_path / "student"
    shutil.copytree(small_teacher, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"--bert .*a model of type {kind}.*looks like a student"):
        prepare_teacher(str(folder), Corpus(small_text), trim_vocab=True, seed=1)
    with pytest.raises(ModelError, match=f"--teacher .*a model of type {kind}.*teacher-train") as caught:
        Teacher.load(folder)
    assert "network" not in str(caught.value)


def test_a_file_of_weights_is_no_folder(small_bert: Path, small_text: TextFiles) -> None:
    """The path of a file says that the folder around it is wanted."""
    with pytest.raises(ModelError, match="it is a file"):
        prepare_teacher(str(small_bert / "model.safetensors"), Corpus(small_text), trim_vocab=True, seed=1)


def renamed(folder: Path, new_name: Callable[[str], str | None], *sources: Path) -> Path:
    """A copy of the first of `sources` with all of their weights under other names, or without those of no name."""
    shutil.copytree(sources[0], folder)
    weights = {key: value for source in sources for key, value in load_file(source / "model.safetensors").items()}
    named = {new: value for key, value in weights.items() if (new := new_name(key)) is not None}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module.", "0.auto_model.", "encoder."])
def test_fault_56_a_wrappers_prefix_is_taken_off(
    prefix: str, small_bert: Path, small_text: TextFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights that all stand under a wrapper's name are loaded as if they did not, and a message says so."""
    folder = renamed(tmp_path / "wrapped", lambda key: prefix + key, small_bert)
    expected = prepare_teacher(str(small_bert), Corpus(small_text), trim_vocab=True, seed=1)
    caplog.clear()
    found = prepare_teacher(str(folder), Corpus(small_text), trim_vocab=True, seed=1)
    assert found.fingerprint() == expected.fingerprint()
    assert f"begin with {prefix}, which is taken off" in caplog.text
    assert "Newly initialised" not in caplog.text


@pytest.mark.parametrize("prefix", ["module.", "module.bert."])
def test_fault_56_an_encoder_alone_under_a_prefix(prefix: str, small_text: TextFiles, tmp_path: Path) -> None:
    """An encoder without a head loads under a prefix, too, with or without the model's own name in it."""
    encoder = save_bert(tmp_path / "encoder", all_lines(small_text), head=False)
    folder = renamed(tmp_path / "wrapped", lambda key: prefix + key, encoder)
    one, other = (
        dict(prepare_teacher(str(place), Corpus(small_text), trim_vocab=False, seed=1).model.bert.named_parameters())
        for place in (encoder, folder)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def _strange(key: str) -> str:
    return f"other.{key}" if "layer.1" in key else f"module.{key}"


MISSING: dict[str, Callable[[str], str | None]] = {
    "all of it": lambda key: key if key.startswith("cls") else None,
    "a layer": lambda key: None if ".layer.1." in key else key,
    "one matrix": lambda key: None if key.endswith("layer.0.attention.self.query.weight") else key,
    "under two prefixes": _strange,
    "an adapter's": lambda key: f"base_model.{key}.lora_A" if "query" in key else None,
}


@pytest.mark.parametrize("what", MISSING)
def test_fault_56_an_encoder_that_is_missing_is_refused(
    what: str, small_bert: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """Where weights of the encoder are missing, in whole or in part, nothing is trained with random ones."""
    folder = renamed(tmp_path / "lacking", MISSING[what], small_bert)
    with pytest.raises(ModelError, match=r"--bert .*weights of its encoder \(bert\."):
        prepare_teacher(str(folder), Corpus(small_text), trim_vocab=True, seed=1)


def test_fault_56_weights_without_a_place_are_named(
    small_bert: Path, small_text: TextFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration with fewer layers than the weights opens, and the weights that it leaves out are counted."""
    folder = tmp_path / "shallow"
    shutil.copytree(small_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    prepare_teacher(str(folder), Corpus(small_text), trim_vocab=True, seed=1)
    assert "no place for 16 of its weights (bert.encoder.layer.1." in caplog.text


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


def test_another_checkpoint_under_the_same_name_is_refused(teacher_config: TeacherConfig, tmp_path: Path) -> None:
    """A teacher that was begun with one checkpoint does not go on with another one in the same folder."""
    bert = tmp_path / "bert"
    shutil.copytree(teacher_config.bert, bert)
    config = replace(teacher_config, bert=str(bert), training=steps(1))
    train_teacher(config, tmp_path / "teacher")
    model = load_file(bert / "model.safetensors")
    name = min(model)
    save_file({**model, name: model[name] + 1}, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(MismatchError, match="the BERT is not that of the first time"):
        train_teacher(config, tmp_path / "teacher")


def test_a_tokenizer_of_another_model_is_refused(small_bert: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """A tokenizer with more pieces than the model has rows is refused with both numbers."""
    save_bert(tmp_path / "bert", all_lines(small_text), vocab_size=50)
    with pytest.raises(ModelError, match=r"\d+ pieces.*has 50 rows"):
        prepare_teacher(str(tmp_path / "bert"), Corpus(small_text), trim_vocab=False, seed=1)


def test_loading_refuses_what_is_no_trained_teacher(small_text: TextFiles, small_teacher: Path, tmp_path: Path) -> None:
    """dump-logits' --teacher must be a folder with a head, and says what else it found."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json.*teacher-train"):
        Teacher.load(tmp_path / "empty")
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
