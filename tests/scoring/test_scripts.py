"""Scripts without blanks between words: a tokenizer for them, named in the signature, or a refusal; never a 0."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_cli
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from kdcache.errors import UsageError
from kdcache.scoring.score_config import MetricSettings
from kdcache.scoring.score_corpus import Score, score_corpus
from kdcache.scoring.scripts import WordSpacing, blanks_of
from kdcache.scoring.sentence_scores import sentence_scores

CHINESE = ["市长昨天宣布了一项新的计划。", "这本书在 1998 年出版。"]
NEARLY = ["市长昨日宣布了一项新的计划。", "这本书在 1998 年印刷。"]
JAPANESE = ["市長は昨日、新しい計画を発表しました。", "この本はとても面白いです。"]
THAI = ["นายกเทศมนตรีประกาศแผนใหม่เมื่อวานนี้", "หนังสือเล่มนี้น่าสนใจมาก"]
KHMER = ["សៀវភៅនេះគួរឱ្យចាប់អារម្មណ៍ណាស់"]
BURMESE = ["ဒီစာအုပ်က အရမ်းစိတ်ဝင်စားဖို့ကောင်းတယ်"]
HALF_WIDTH = ["ｼﾁｮｳﾊｷﾉｳｱﾀﾗｼｲｹｲｶｸｦﾊｯﾋﾟｮｳｼﾏｼﾀ"]
JAVANESE = ["ꦧꦸꦏꦸꦲꦶꦏꦶꦩꦼꦤꦫꦶꦏ꧀ꦧꦔꦼꦠ꧀"]
LANNA = ["ᨠᩣᩴᨾᩮᩬᩥᨦᨯᩦᨾᩣᨠᨠᩣᩴᨾᩮᩬᩥᨦ"]
KOREAN = ["시장은 어제 새로운 계획을 발표했습니다."]
GERMAN = ["Der Bürgermeister von 北京 sprach über die neuen Pläne der Stadt und über ihre Kosten."]


def one(hypotheses: list[str], references: list[str], metric: str, **settings: object) -> Score:
    (score,) = score_corpus(hypotheses, [references], [metric], MetricSettings(**settings))  # type: ignore[arg-type]
    return score


@pytest.mark.parametrize(
    ("text", "blanks"),
    [
        (CHINESE, WordSpacing.HAN),
        (JAPANESE, WordSpacing.UNSPACED),
        (THAI, WordSpacing.UNSPACED),
        (KHMER, WordSpacing.UNSPACED),
        (BURMESE, WordSpacing.UNSPACED),
        (KOREAN, WordSpacing.SPACED),
        (GERMAN, WordSpacing.SPACED),
        (["", "?!"], WordSpacing.SPACED),
    ],
)
def test_fault_59_the_script_decides(text: list[str], blanks: WordSpacing) -> None:
    """What most letters of the references are decides; a foreign name in a text with blanks does not."""
    assert blanks_of([text]) is blanks


def test_fault_59_chinese_by_sacrebleu() -> None:
    """BLEU and TER of Chinese are sacreBLEU's with its tokenizers for Chinese, and their signatures name these."""
    bleu, ter = one(NEARLY, CHINESE, "bleu"), one(NEARLY, CHINESE, "ter")
    assert bleu.value == pytest.approx(BLEU(tokenize="zh").corpus_score(NEARLY, [CHINESE]).score)
    assert bleu.value > 60
    assert "tok:zh" in bleu.signature
    expected = TER(normalized=True, asian_support=True).corpus_score(NEARLY, [CHINESE]).score
    assert ter.value == pytest.approx(expected)
    assert ter.value < 20
    assert "asian:yes" in ter.signature
    each = sentence_scores(NEARLY, [CHINESE], ["bleu", "ter"])
    assert min(each["bleu"]) > 40
    assert max(each["ter"]) < 30


@pytest.mark.parametrize("text", [JAPANESE, HALF_WIDTH, THAI, KHMER, JAVANESE, LANNA])
def test_fault_59_other_scripts_go_by_characters(text: list[str]) -> None:
    """One letter less leaves most of BLEU, over characters; TER, which cannot split these scripts, is refused."""
    shorter = [line[:-3] + line[-2:] for line in text]
    assert BLEU(force=True).corpus_score(shorter, [text]).score < 20
    score = one(shorter, text, "bleu")
    assert score.value == pytest.approx(BLEU(tokenize="char", force=True).corpus_score(shorter, [text]).score)
    assert score.value > 80
    assert "tok:char" in score.signature
    assert score_corpus(shorter, [text], ["rouge"])[0].value > 80
    with pytest.raises(UsageError, match="--metric ter counts words, and the script"):
        one(shorter, text, "ter")
    with pytest.raises(UsageError, match="--word-order 2 counts words"):
        one(shorter, text, "chrf", word_order=2)


def test_texts_with_blanks_are_scored_as_before() -> None:
    """German with a Chinese name and Korean keep sacreBLEU's own default, and say so."""
    for text in (GERMAN, KOREAN):
        assert "tok:13a" in one(text, text, "bleu").signature
        assert "asian:no" in one(text, text, "ter").signature


def test_what_is_asked_for_is_used(tmp_path: Path) -> None:
    """--tokenize and --word-order reach sacreBLEU and the signatures; what it cannot load is refused in one line."""
    assert one(CHINESE, CHINESE, "bleu", tokenize="intl").signature.count("tok:intl") == 1
    hypotheses, references = ["a b c d e"], ["a b c d f"]
    plus = one(hypotheses, references, "chrf", word_order=2)
    assert plus.value == pytest.approx(CHRF(word_order=2).corpus_score(hypotheses, [references]).score)
    assert "nw:2" in plus.signature
    (tmp_path / "r").write_text("a b c d\n")
    command = ["score", "--reference", "r", "--hypothesis", "r", "--metric", "bleu", "--tokenize"]
    done = run_cli(*command, "char", cwd=tmp_path)
    assert (done.returncode, "tok:char" in done.stdout) == (0, True)
    done = run_cli(*command, "ja-mecab", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--tokenize ja-mecab: sacreBLEU cannot use it here" in done.stderr
