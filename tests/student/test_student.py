"""The student: a class of the library, of known dimensions, trained without its teacher."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import caches
import numpy as np
import pytest
import torch
from conftest import ROOT
from models import NANO, parameters, same_parameters, steps, write_text
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.reader import CacheReader
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import DataError, ModelError, UsageError
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.cached_labels import CacheSections
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import Student, build_student
from kdcache.student.student_config import ARCHITECTURES, POSITIONS, StudentConfig, default_rate
from kdcache.student.train_student import make_task, train_student
from kdcache.student.training_forecast import forecast
from kdcache.text.corpus import Pair, TextFiles
from kdcache.training.batches import Section, Selection, collate, epoch_order

# Layers on each side, width, feed-forward, heads.
DIMENSIONS = {"tiny": (4, 128, 256, 4), "small": (3, 256, 1024, 4), "base": (6, 512, 2048, 8)}


def make(cache: Path, size: str, arch: str = "transformer", seed: int = 1) -> Student:
    reader = CacheReader(cache)
    return build_student(arch, size, reader.tokenizer(), reader.plan.vocabulary, dropout=0.1, seed=seed)


@pytest.mark.parametrize("size", DIMENSIONS)
def test_sizes(size: str, small_cache: Path) -> None:
    """Each size has the layers, widths and heads that its name promises, in the module and not only in the config."""
    layers, width, feed_forward, heads = DIMENSIONS[size]
    model = make(small_cache, size).model
    assert type(model).__name__ == "M2M100ForConditionalGeneration"
    for side in (model.model.encoder, model.model.decoder):
        assert len(side.layers) == layers
        assert side.layerdrop == 0
        for layer in side.layers:
            assert layer.fc1.weight.shape == (feed_forward, width)
            assert layer.self_attn.num_heads == heads
            assert layer.self_attn.q_proj.weight.shape == (width, width)
        assert isinstance(side.layer_norm, torch.nn.LayerNorm)
    config = model.config
    assert (config.encoder_layerdrop, config.decoder_layerdrop) == (0, 0)
    assert config.scale_embedding
    # No position is a parameter: they are sinusoids.
    vocabulary = CacheReader(small_cache).plan.vocabulary
    per_layer = 4 * (width * width + width) + 2 * width * feed_forward + feed_forward + width
    expected = vocabulary * width + 2 * layers * per_layer + layers * 4 * (width * width + width)
    expected += 2 * (5 * layers + 2) * width
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_embeddings_are_shared_three_ways(small_cache: Path, small_student: Path) -> None:
    """Encoder, decoder and output use one matrix, when fresh and after loading; it is stored once."""
    for model in (make(small_cache, "tiny").model, Student.load(small_student).model):
        weight = model.get_output_embeddings().weight
        assert model.model.encoder.embed_tokens.weight is weight
        assert model.model.decoder.embed_tokens.weight is weight
        assert model.get_output_embeddings().bias is None
    stored = load_file(small_student / "model.safetensors")
    assert sum(tensor.shape == weight.shape for tensor in stored.values()) == 1


def test_fresh_students_depend_on_the_seed_alone(small_cache: Path) -> None:
    """The same seed gives the same parameters, whatever was drawn before; another seed gives others."""
    first = parameters(make(small_cache, "tiny").model)
    torch.rand(7)
    assert same_parameters(first, parameters(make(small_cache, "tiny").model))
    assert not same_parameters(first, parameters(make(small_cache, "tiny", seed=2).model))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_does_not_change_a_pair(arch: str, small_cache: Path) -> None:
    """The decoder states of a pair are the same alone and beside longer pairs."""
    reader, student = CacheReader(small_cache), make(small_cache, "small", arch)
    student.model.eval()
    pairs, special = reader.shard(0).pairs, student.tokenizer.special
    rows = np.array([int(np.argmin(pairs.target_lengths)), int(np.argmax(pairs.target_lengths)), 0, 1])
    together = collate(Selection(Section(pairs), rows, 0, 0), special, None)
    alone = [collate(Selection(Section(pairs), row[None], 0, 0), special, None) for row in rows]
    with torch.no_grad():
        torch.testing.assert_close(
            student.hidden(together), torch.cat([student.hidden(one) for one in alone]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_decoder_does_not_see_what_comes(arch: str, small_cache: Path) -> None:
    """Changing a target word changes no state at or before its own position."""
    reader, student = CacheReader(small_cache), make(small_cache, "small", arch)
    student.model.eval()
    pairs = reader.shard(0).pairs
    batch = collate(Selection(Section(pairs), np.array([0]), 0, 0), student.tokenizer.special, None)
    changed = batch.decoder_ids.clone()
    changed[0, 3] = (changed[0, 3] + 1) % reader.plan.vocabulary
    with torch.no_grad():
        one, other = student.hidden(batch), student.hidden(replace(batch, decoder_ids=changed))
    assert torch.equal(one[:3], other[:3])
    assert not torch.allclose(one[3:], other[3:], atol=1e-4)


def test_both_arms_of_a_comparison_differ_in_the_loss_only(small_cache: Path) -> None:
    """--alpha 1 and --alpha 0.5 start from the same parameters and see the same batches in the same order."""
    reader = CacheReader(small_cache)
    arms = []
    for alpha in (1.0, 0.5):
        config = StudentConfig(str(small_cache), ObjectiveConfig(alpha=alpha), steps(5))
        task = make_task(config, reader)
        special = task.student.tokenizer.special
        sections = CacheSections(reader, soft=alpha < 1)
        order = [collate(one, special, None) for epoch in (0, 1) for one in epoch_order(sections, 400, 1, epoch)]
        arms.append((parameters(task.model), order, torch.get_rng_state()))
    assert same_parameters(arms[0][0], arms[1][0])
    assert torch.equal(arms[0][2], arms[1][2])
    assert len(arms[0][1]) == len(arms[1][1]) > 10
    for plain, soft in zip(arms[0][1], arms[1][1], strict=True):
        assert plain.soft is None
        assert soft.soft is not None
        for name in ("source_ids", "source_mask", "decoder_ids", "positions", "labels"):
            assert torch.equal(getattr(plain, name), getattr(soft, name))


def test_alpha_1_is_what_training_on_the_text_alone_gives(
    small_cache: Path, small_text: TextFiles, small_teacher: Path, nano: str, tmp_path: Path
) -> None:
    """A cache of another teacher's opinion trains the same student, bit for bit, where alpha is 1."""
    shutil.copytree(small_teacher, tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    save_file({k: v * 0.7 for k, v in weights.items()}, tmp_path / "teacher" / "model.safetensors", {"format": "pt"})
    dump(DumpConfig(str(tmp_path / "teacher"), small_text, shard_pairs=40, device="cpu"), tmp_path / "other")
    for alpha, same in ((1.0, True), (0.5, False)):
        found = []
        for cache in (small_cache, tmp_path / "other"):
            output = tmp_path / f"{cache.name}-{alpha}"
            train_student(StudentConfig(str(cache), ObjectiveConfig(alpha=alpha), steps(3), size=nano), output)
            found.append((output / "model.safetensors").read_bytes())
        assert (found[0] == found[1]) is same


TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from kdcache.cli import main
main(sys.argv[2:], standalone_mode=False)
print("\\n".join(sorted(name for name in sys.modules if name.startswith("kdcache."))))
"""


def test_training_needs_no_teacher(
    small_teacher: Path, small_text: TextFiles, small_valid: TextFiles, tmp_path: Path
) -> None:
    """With the teacher's folder deleted student-train works, and imports no module of teacher or dump."""
    teacher, cache, output = tmp_path / "teacher", tmp_path / "cache", tmp_path / "student"
    shutil.copytree(small_teacher, teacher)
    dump(DumpConfig(str(teacher), small_text, shard_pairs=60, device="cpu"), cache)
    shutil.rmtree(teacher)
    source, target = small_valid.paths()
    command = ["student-train", "--cache", cache, "--output", output, "--max-steps", 3, "--max-tokens", 400]
    command += ["--valid-source", source, "--valid-target", target, "--alpha", 0.5, "--device", "cpu"]
    process = subprocess.run(
        [sys.executable, "-c", TRAIN, str(ROOT), *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    imported = process.stdout.split()
    assert "kdcache.student.train_student" in imported
    forbidden = (
        "kdcache.teacher.masked_lm",
        "kdcache.teacher.prepare_teacher",
        "kdcache.teacher.train_teacher",
        "kdcache.teacher.masking",
    )
    # What the command line reads of the teacher are its settings' defaults; no code that runs one.
    assert not set(forbidden) & set(imported)
    assert {name for name in imported if name.startswith("kdcache.dump")} <= {
        "kdcache.dump",
        "kdcache.dump.dump_config",
    }
    assert Student.load(output).model.config.encoder_layers == DIMENSIONS["tiny"][0]


def test_saved_student_opens_without_kdcache(elsewhere: tuple[list[str], dict[str, Any]], small_student: Path) -> None:
    """AutoModelForSeq2SeqLM and AutoTokenizer alone write what kdcache writes, from exactly `tokenizer(x)`."""
    lines, found = elsewhere
    assert found["class"] == "M2M100ForConditionalGeneration"
    assert found["keys"] == ["attention_mask", "input_ids"]
    assert found["imported"] == []
    config = GenerateConfig(str(small_student), "lines", max_tokens=1, device="cpu")
    assert found["texts"] == generate(Student.load(small_student), lines, config)
    assert len(set(found["texts"])) > 2
    assert all(found["texts"])


def test_whoever_reads_the_configuration_can_read_the_weights(small_student: Path, small_teacher: Path) -> None:
    """Weights have the permissions of the other files: others than their owner can use a model."""
    for folder in (small_student, small_teacher):
        modes = {(folder / name).stat().st_mode for name in ("config.json", "model.safetensors")}
        assert len(modes) == 1, folder


def test_generation_settings_are_explicit(small_student: Path, small_cache: Path, small_text: TextFiles) -> None:
    """The folder says which tokens start, end and pad a text, and how long it may become: 1.5 times the longest."""
    stored = json.loads((small_student / "generation_config.json").read_text())
    special = Student.load(small_student).tokenizer.special
    targets = Path(small_text.target).read_text(encoding="utf-8").splitlines()
    longest = max(map(len, Student.load(small_student).tokenizer.encode(targets))) + 1
    assert stored["max_length"] == 1 + int(1.5 * longest)
    assert stored["num_beams"] == 4
    assert (stored["decoder_start_token_id"], stored["bos_token_id"]) == (special.start, special.start)
    assert (stored["eos_token_id"], stored["pad_token_id"]) == (special.end, special.pad)
    settings = json.loads((small_student / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == POSITIONS
    assert [settings[name] for name in ("bos_token", "eos_token")] == ["[CLS]", "[SEP]"]


def test_fewer_words_than_stored(small_cache: Path, nano: str) -> None:
    """--topk 2 trains on the first two words of each position, renormalised."""
    reader = CacheReader(small_cache)
    config = StudentConfig(str(small_cache), ObjectiveConfig(alpha=0.0, topk=2, name="chen2020"), steps(1), size=nano)
    task = make_task(config, reader)
    task.model.eval()
    selection = next(epoch_order(CacheSections(reader, soft=True), 400, 1, 0))
    batch = collate(selection, task.student.tokenizer.special, None)
    with torch.no_grad():
        log_probs = torch.log_softmax(task.student.output_layer.exact_logits(task.student.hidden(batch)), dim=1)
        weights = torch.softmax(batch.soft.log_probs[:, :2].float(), dim=1)
        expected = -(weights * log_probs.gather(1, batch.soft.token_ids[:, :2].long())).sum()
        torch.testing.assert_close(task.loss(task.collate(selection, [(0, len(selection.rows))])[0], 1).total, expected)


def test_forecast_writes_nothing_and_counts_right(small_cache: Path, small_valid: TextFiles, nano: str) -> None:
    """--dry-run knows the steps and parameters of the real run."""
    before = sorted(path for path in small_cache.rglob("*"))
    training = steps(1, max_steps=None, epochs=3)
    config = StudentConfig(str(small_cache), ObjectiveConfig(), training, small_valid, size=nano)
    found = forecast(config)
    reader = CacheReader(small_cache)
    order = list(epoch_order(CacheSections(reader, soft=True), training.max_tokens, training.seed, 0))
    assert found.steps == 3 * len(order)
    model = make_task(config, reader).model
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.seconds > 0
    assert found.peak_bytes > 1 << 20
    assert sorted(path for path in small_cache.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "cnn"}, "--arch must be one of"),
        ({"size": "huge"}, "--size must be one of tiny, small, base"),
        ({"dropout": 1.0}, "--dropout"),
        ({"objective": ObjectiveConfig(alpha=2)}, "--alpha"),
        ({"training": steps(0)}, "--max-steps"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    """A value outside its range is refused with the option's name."""
    with pytest.raises(UsageError, match=message):
        replace(StudentConfig("cache", ObjectiveConfig(), steps(1)), **changes).check()


def test_default_rates() -> None:
    """With linear the size decides the peak; with noam the factor is 1."""
    assert [default_rate("transformer", size, "linear") for size in DIMENSIONS] == [2e-3, 1e-3, 5e-4]
    assert [default_rate("rnn", size, "linear") for size in DIMENSIONS] == [2e-3, 2e-3, 1e-3]
    assert {default_rate(arch, size, "noam") for arch in ("rnn", "transformer") for size in DIMENSIONS} == {1.0}
    assert NANO.width < DIMENSIONS["tiny"][1]


def test_no_student_here(tmp_path: Path, small_teacher: Path) -> None:
    """A folder that holds no student is refused with what is wrong."""
    with pytest.raises(ModelError, match=r"no config\.json.*student-train"):
        Student.load(tmp_path)
    with pytest.raises(ModelError, match="model of type bert, no student"):
        Student.load(small_teacher)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_fault_52_pairs_longer_than_1024_tokens(arch: str, nano: str, tmp_path: Path) -> None:
    """A student takes whatever pair its cache's teacher took: it trains, validates, generates and opens elsewhere."""
    plan = replace(caches.make_plan(4, 4), positions=2_048)
    pairs = caches.tokenizer().encode_pairs([Pair("fox " * 1_500, "dog"), *[Pair("the red fox", "dog " * 1_100)] * 3])
    writer = CacheWriter(tmp_path / "cache", plan, caches.tokenizer())
    writer.commit(0, caches.label(pairs, plan, 1))
    assert writer.finalize()
    valid = write_text(tmp_path, ["fox " * 1_200, "dog"], ["dog", "fox"])
    size = nano if arch == "transformer" else "tiny"
    config = StudentConfig(
        str(tmp_path / "cache"), ObjectiveConfig(), steps(1, valid_every=1), valid, arch=arch, size=size
    )
    train_student(config, tmp_path / "student")
    student = Student.load(tmp_path / "student")
    assert student.positions == student.model.config.max_position_embeddings == 2_048
    text = "fox " * 1_600
    search = GenerateConfig(str(tmp_path / "student"), "lines", beam_size=1, max_length=5)
    (written,) = generate(student, [text], search)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student")
    inputs = tokenizer(text, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 1_602)
    (ids,) = model.generate(**inputs, num_beams=1, max_length=5)
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == written.split()
    with pytest.raises(DataError, match="lines:1: 2,102 tokens; the student has 2,048 positions"):
        generate(student, ["fox " * 2_100], search)
