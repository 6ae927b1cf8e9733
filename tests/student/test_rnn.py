"""The RNN student: its equations by a slow loop, its search by exhaustion, its folder by another process."""

from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_here
from models import parameters, same_parameters, steps
from torch import Tensor

from kdcache.cache.reader import CacheReader
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.rnn import DecoderState, RnnConfig, RnnForConditionalGeneration
from kdcache.student.seq2seq import Student, build_student
from kdcache.student.student_config import RnnSize, StudentConfig
from kdcache.student.train_student import make_task, train_student
from kdcache.text.corpus import TextFiles
from kdcache.training.batches import Section, Selection

VOCABULARY, WIDTH = 7, 6
START, END = 2, 3


@pytest.fixture
def model() -> RnnForConditionalGeneration:
    """Two layers, float64, with parameters large enough to matter."""
    torch.manual_seed(5)
    config = RnnConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        num_hidden_layers=2,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
    )
    made = RnnForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


@pytest.fixture
def rnn(small_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Student:
    """A small student of the small cache."""
    from kdcache.student import student_config

    monkeypatch.setitem(student_config.RNN_SIZES, "nano", RnnSize(layers=2, width=16, learning_rate=2e-3))
    reader = CacheReader(small_cache)
    student = build_student("rnn", "nano", reader.tokenizer(), reader.plan.vocabulary, dropout=0.0, seed=1)
    student.model.eval()
    return student


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class SlowRnn:
    """The equations of the module's description, one word and one layer at a time, in numpy."""

    def __init__(self, model: RnnForConditionalGeneration) -> None:
        self.p = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def lstm(self, x: np.ndarray, h: np.ndarray, c: np.ndarray, prefix: str, suffix: str) -> tuple[np.ndarray, ...]:
        names = (f"{prefix}{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        w, u, b, d = (self.p[name] for name in names)
        i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def embed(self, words: int | list[int]) -> np.ndarray:
        return np.sqrt(WIDTH) * self.p["model.shared.weight"][words]

    def encode(self, source: list[int]) -> np.ndarray:
        states = self.embed(source)
        for layer in range(2):
            both = []
            for suffix, order in (("", range(len(source))), ("_reverse", reversed(range(len(source))))):
                h = c = np.zeros(WIDTH // 2)
                out = np.zeros((len(source), WIDTH // 2))
                for position in order:
                    h, c = self.lstm(states[position], h, c, "model.encoder.lstm.", f"_l{layer}{suffix}")
                    out[position] = h
                both.append(out)
            states = np.concatenate(both, axis=1)
        return states

    def log_probs(self, source: list[int], words: list[int]) -> np.ndarray:
        """After each of `words`: [N, vocabulary]."""
        states = self.encode(source)
        bridge = self.p["model.decoder.bridge.weight"] @ states.mean(axis=0) + self.p["model.decoder.bridge.bias"]
        hidden, cell = bridge.reshape(2, 2, WIDTH)
        hidden, cell = list(np.tanh(hidden)), list(cell)
        attentional, found = np.zeros(WIDTH), []
        for word in words:
            below = np.concatenate([self.embed(word), attentional])
            for layer in range(2):
                prefix = f"model.decoder.cells.{layer}."
                hidden[layer], cell[layer] = self.lstm(below, hidden[layer], cell[layer], prefix, "")
                below = hidden[layer]
            scores = np.array([below @ self.p["model.decoder.score.weight"] @ state for state in states])
            weights = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            context = weights @ states
            attentional = np.tanh(self.p["model.decoder.combine.weight"] @ np.concatenate([context, below]))
            logits = self.p["model.shared.weight"] @ attentional
            found.append(logits - np.logaddexp.reduce(logits))
        return np.array(found)


def padded(sources: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sources))
    ids = torch.tensor([source + [0] * (longest - len(source)) for source in sources])
    return ids, torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sources])


SOURCES = [[START, 5, 4, 6, END], [START, 6, END], [START, 4, 4, END]]
TARGETS = [[START, 4, 5, 5], [START, 6, 6, 4], [START, 5, 1, 6]]


@torch.no_grad()
def test_the_model_computes_its_equations(model: RnnForConditionalGeneration) -> None:
    """Log-probabilities of a padded batch equal those of the equations, pair by pair and word by word."""
    ids, mask = padded(SOURCES)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=torch.tensor(TARGETS)).logits
    found = torch.log_softmax(logits, dim=-1).numpy()
    slow = SlowRnn(model)
    for row, (source, words) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        # The attention's softmax is float32 in the model.
        np.testing.assert_allclose(found[row], slow.log_probs(source, words), atol=1e-6)
    assert found.std(axis=(0, 1)).min() > 1e-3


@torch.no_grad()
def test_word_by_word_is_all_at_once(model: RnnForConditionalGeneration) -> None:
    """Handing the state on from word to word gives what one call over all words gives."""
    ids, mask = padded(SOURCES)
    words = torch.tensor(TARGETS)
    whole = model(input_ids=ids, attention_mask=mask, decoder_input_ids=words).logits
    state: DecoderState | None = None
    for step in range(words.shape[1]):
        found = model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=words[:, step : step + 1], past_key_values=state
        )
        state = found.past_key_values
        torch.testing.assert_close(found.logits[:, 0], whole[:, step])
    assert state is not None
    assert state.get_seq_length() == words.shape[1]


def test_beam_search_finds_the_best_of_all(model: RnnForConditionalGeneration) -> None:
    """With a beam that holds everything, `generate` returns the most probable of all possible outputs."""
    ids, mask = padded(SOURCES)
    length = 3
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=VOCABULARY**2,
        max_length=length + 1,
        length_penalty=0.0,
        do_sample=False,
        early_stopping=False,
    )
    slow = SlowRnn(model)
    for row, source in enumerate(SOURCES):
        best = max(
            (output for output in outputs(length)),
            key=lambda output, source=source: sum(  # type: ignore[misc]
                slow.log_probs(source, [START, *output[:-1]])[np.arange(len(output)), output]
            ),
        )
        # What ends early is padded with id 0, which is a word like any other before the end.
        padding = [0] * (found.shape[1] - 1 - len(best))
        assert found[row].tolist() == [START, *best, *padding]


def outputs(length: int) -> list[list[int]]:
    """Every sequence of words that ends at its first end token or at `length`."""
    return [
        list(words)
        for n in range(1, length + 1)
        for words in itertools.product(range(VOCABULARY), repeat=n)
        if END not in words[:-1] and (words[-1] == END or n == length)
    ]


def moved(ids: Tensor, mask: Tensor, places: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The same words at other places, in their order, and padding elsewhere."""
    longer = torch.zeros(len(ids), 1 + max(map(max, places)), dtype=torch.long)
    present = torch.zeros_like(longer)
    for row, where in enumerate(places):
        longer[row, where] = ids[row, mask[row] == 1]
        present[row, where] = 1
    return longer, present


@torch.no_grad()
def test_padding_may_stand_anywhere(model: RnnForConditionalGeneration) -> None:
    """Padded at the left, at the right or in between, a source gives the states and logits that it has unpadded."""
    model.float()
    ids, mask = padded(SOURCES)
    words = torch.tensor(TARGETS)
    alone = [
        model(input_ids=torch.tensor([source]), decoder_input_ids=words[row : row + 1]).logits
        for row, source in enumerate(SOURCES)
    ]
    at_left = [list(range(5 - len(source), 5)) for source in SOURCES]
    for places in (
        [list(range(len(source))) for source in SOURCES],
        at_left,
        [[0, 1, 2, 3, 4], [1, 4, 6], [2, 3, 5, 6]],
    ):
        other_ids, other_mask = moved(ids, mask, places)
        for kind in (torch.long, torch.bool, torch.float32):
            found = model(input_ids=other_ids, attention_mask=other_mask.to(kind), decoder_input_ids=words)
            torch.testing.assert_close(found.logits, torch.cat(alone), rtol=0, atol=1e-6)
        states = found.encoder_last_hidden_state
        assert not states[other_mask == 0].any()
        for row, where in enumerate(places):
            expected = model.model.encoder(torch.tensor([SOURCES[row]])).last_hidden_state[0]
            torch.testing.assert_close(states[row, where], expected, rtol=0, atol=1e-6)


def test_what_it_does_not_know_is_refused(model: RnnForConditionalGeneration) -> None:
    """An argument that would do nothing, such as `labels`, is an error, not silently passed over."""
    ids, mask = padded(SOURCES)
    words = torch.tensor(TARGETS)
    with pytest.raises(TypeError, match="labels"):
        model(input_ids=ids, attention_mask=mask, decoder_input_ids=words, labels=words)


def test_fresh_models_depend_on_the_seed_alone(rnn: Student, small_cache: Path) -> None:
    """The same seed gives the same parameters; the embeddings are shared three ways, the forget gates open."""
    reader = CacheReader(small_cache)
    torch.rand(7)
    again = build_student("rnn", "nano", reader.tokenizer(), reader.plan.vocabulary, dropout=0.0, seed=1)
    assert same_parameters(parameters(rnn.model), parameters(again.model))
    weight = rnn.model.get_output_embeddings().weight
    assert rnn.model.model.encoder.embed_tokens.weight is weight
    assert rnn.model.model.decoder.embed_tokens.weight is weight
    bias = dict(rnn.model.named_parameters())["model.decoder.cells.0.bias_ih"]
    assert bias.view(4, -1).mean(dim=1).tolist() == [0, 1, 0, 0]


@torch.no_grad()
def test_the_encoder_stays_in_float32_under_autocast(rnn: Student, small_cache: Path) -> None:
    """Autocast would hand the LSTM to float16 on a GPU; its states are the float32 ones, bit for bit."""
    ids, mask = padded(SOURCES)
    exact = rnn.model.model.encoder(ids, mask).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rnn.model.model.encoder(ids, mask).last_hidden_state
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


@pytest.mark.full
def test_trained_and_opened_elsewhere(rnn: Student, small_cache: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """A trained RNN opens in processes that cannot import kdcache, as its card says, and in ones that can."""
    training = steps(60, max_tokens=1_500, learning_rate=1e-2)
    config = StudentConfig(str(small_cache), ObjectiveConfig(alpha=1.0), training, arch="rnn", size="nano")
    before = float(_mean_loss(config, rnn))
    train_student(config, tmp_path / "s")
    student = Student.load(tmp_path / "s")
    assert float(_mean_loss(config, student)) < before - 0.5
    card = (tmp_path / "s" / "README.md").read_text()
    program = card.split("```python\n")[1].split("```")[0]
    line = Path(small_text.paths()[0]).read_text().splitlines()[0]
    program += f"\nprint(model.generate(**tokenizer({line!r}, return_tensors='pt'), max_length=9).tolist()[0])"
    program += "\nprint(type(model).__module__)"
    ids = torch.tensor([student.tokenizer.encode_sources([line])[0]])
    words = str(student.model.eval().generate(input_ids=ids, max_length=9).tolist()[0])
    known = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport kdcache.student.rnn\n{program}"
    alone = f"import sys\nsys.modules['kdcache'] = None\n{program}"
    for run, home in (
        (alone, "transformers_modules.s"),
        (known, "kdcache."),
        (known.replace("True", "False"), "kdcache."),
    ):
        command = [sys.executable, "-I", "-c", run.replace('"."', f'"{tmp_path / "s"}"')]
        environment = {**os.environ, "HF_HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        _, found, module = done.stdout.splitlines()
        assert found == words
        assert module.startswith(home)


def test_a_program_in_a_folder_is_never_run(rnn: Student, tmp_path: Path) -> None:
    """The folder holds exactly our file, and whatever stands there instead, kdcache opens the student with its own."""
    rnn.save(tmp_path)
    copy = tmp_path / "rnn.py"
    assert copy.read_bytes() == Path(inspect.getfile(RnnConfig)).read_bytes()
    copy.write_text("raise SystemExit('run')")
    assert same_parameters(parameters(Student.load(tmp_path).model), parameters(rnn.model))


@torch.no_grad()
def _mean_loss(config: StudentConfig, student: Student) -> Tensor:
    reader = CacheReader(Path(config.cache))
    task = replace(make_task(config, reader), student=student)
    section = Section(reader.shard(0).pairs, reader.shard(0).soft)
    student.model.eval()
    rows = np.flatnonzero(section.pairs.target_lengths > 0)
    (batch,) = task.collate(Selection(section, rows, 0, 0), [(0, len(rows))])
    found = task.loss(batch, 1)
    return found.parts["nll"] / found.n_tokens


def test_the_commands_take_it(small_cache: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """`student-train --arch rnn` and `generate` work on it as on a Transformer."""
    student = tmp_path / "s"
    arguments = ("--cache", small_cache, "--arch", "rnn", "--max-steps", 2, "--output", student)
    assert run_here("student-train", *arguments).returncode == 0
    done = run_here("generate", "--student", student, "--source", small_text.paths()[0], "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out").read_text().splitlines()) == len(small_text.paths()[0].read_text().splitlines())
