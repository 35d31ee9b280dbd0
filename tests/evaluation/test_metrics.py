"""ROUGE, BLEU and chrF of Portuguese texts, worked out by hand; how scoring fails, and what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from math import exp
from pathlib import Path

import pytest

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.evaluation.metrics import (
    METRIC_NAMES,
    chrf_of_pairs,
    metric_signatures,
    rouge_f1,
    score_texts,
    split_words,
)


def score_one(prediction: str, reference: str) -> dict[str, float]:
    return score_texts([prediction], [reference])


def test_words_keep_accents_and_inner_hyphens_and_drop_case_and_punctuation() -> None:
    text = "— O Guarda-Chuva é SEU, coração: 3 às 18h… -fim-"
    assert split_words(text) == ["o", "guarda-chuva", "é", "seu", "coração", "3", "às", "18h", "fim"]


# The pair of the ROUGE tests.  reference, 6 words: o coração pede pão e guarda-chuva
#                               prediction, 5 words: pede pão e coração chuva
REFERENCE, PREDICTION = "O coração pede pão e guarda-chuva.", "Pede pão e coração, chuva."


def test_rouge_1_counts_common_words() -> None:
    # Common: pede, pão, e, coração = 4 ("chuva" is not "guarda-chuva"). P = 4/5, R = 4/6, F1 = 2·4/(5+6).
    assert score_one(PREDICTION, REFERENCE)["rouge1"] == pytest.approx(8 / 11)


def test_rouge_2_counts_common_word_pairs() -> None:
    # Reference: o·coração coração·pede pede·pão pão·e e·guarda-chuva (5); prediction: pede·pão pão·e e·coração
    # coração·chuva (4); common 2. F1 = 2·2/(4+5).
    assert score_one(PREDICTION, REFERENCE)["rouge2"] == pytest.approx(4 / 9)


def test_rouge_l_takes_the_longest_common_subsequence() -> None:
    # pede pão e = 3 (coração stands before them in one text and after them in the other). F1 = 2·3/(5+6).
    assert score_one(PREDICTION, REFERENCE)["rougeL"] == pytest.approx(6 / 11)


def test_rouge_lsum_compares_sentence_by_sentence() -> None:
    reference, prediction = "Respire fundo. Amanhã há sol!", "Amanhã há sol! Respire fundo."
    scores = score_one(prediction, reference)
    assert scores["rougeL"] == pytest.approx(3 / 5)  # over the whole texts: only "amanhã há sol" is in order
    assert scores["rougeLsum"] == pytest.approx(1.0)  # sentence by sentence: 2 + 3 words of 5


def test_rouge_of_a_corpus_is_the_mean_of_its_pairs() -> None:
    scores = score_texts([PREDICTION, "não"], [REFERENCE, "sim"])
    assert scores["rouge1"] == pytest.approx((8 / 11 + 0) / 2)
    assert scores["rougeL"] == pytest.approx((6 / 11 + 0) / 2)


def test_bleu_is_the_geometric_mean_of_the_n_gram_precisions() -> None:
    # 7 words each; the 6th differs. 1-grams 6/7; 2-grams 4/6; 3-grams 3/5; 4-grams 2/4; same length: no penalty.
    scores = score_one("A lua ilumina o seu caminho hoje", "A lua ilumina o seu coração hoje")
    assert scores["bleu"] == pytest.approx((6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** (1 / 4))


def test_bleu_punishes_texts_that_are_too_short() -> None:
    # All n-grams of the 5 words are right; the reference has 7: exp(1 - 7/5).
    scores = score_one("a lua ilumina o seu", "a lua ilumina o seu coração hoje")
    assert scores["bleu"] == pytest.approx(exp(1 - 7 / 5))


def test_bleu_of_a_corpus_sums_the_counts_before_dividing() -> None:
    # Pair 1 as above (6/7, 4/6, 3/5, 2/4), pair 2 of 5 words all right (5/5, 4/4, 3/3, 2/2): 11/12, 8/10, 6/8, 4/6.
    scores = score_texts(
        ["A lua ilumina o seu caminho hoje", "o mago já tem tudo"],
        ["A lua ilumina o seu coração hoje", "O mago já tem tudo"],
    )
    assert scores["bleu"] == pytest.approx((11 / 12 * 8 / 10 * 6 / 8 * 4 / 6) ** (1 / 4))


def test_chrf_counts_characters_accents_included() -> None:
    # ação / acao: 1-grams 2/4 (a, o); 2-grams 0/3; 3-grams 0/2; 4-grams 0/1; equal lengths: P = R = F = 0.5/4.
    assert score_one("ação", "acao")["chrf"] == pytest.approx(0.125)


def test_chrf_weighs_recall_twice() -> None:
    # mãos for mão: 1-grams P 3/4, R 3/3; 2-grams P 2/3, R 2/2; 3-grams P 1/2, R 1/1; the reference has no 4-gram.
    # P = (3/4 + 2/3 + 1/2)/3 = 23/36, R = 1; F2 = 5·P·R/(4·P + R) = 115/128.
    assert score_one("mãos", "mão")["chrf"] == pytest.approx(115 / 128)


def test_chrf_of_a_corpus_sums_the_counts_before_dividing() -> None:
    # mãos/mão as above, pão/pão all right. 1-grams P 6/7, R 6/6; 2-grams 4/5, 4/4; 3-grams 2/3, 2/2; no 4-gram of both.
    precision = (6 / 7 + 4 / 5 + 2 / 3) / 3
    scores = score_texts(["mãos", "pão"], ["mão", "pão"])
    assert scores["chrf"] == pytest.approx(5 * precision / (4 * precision + 1))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_the_same_text_scores_one_whatever_its_case_and_unicode_form(name: str) -> None:
    text = "A Imperatriz prepara um café: pão-de-ló, maçã e paciência."
    assert score_one(unicodedata.normalize("NFD", text.upper()), text)[name] == pytest.approx(1.0)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_an_empty_prediction_scores_zero(name: str) -> None:
    assert score_one("", "A lua ilumina o seu coração hoje.")[name] == 0.0


def test_an_empty_prediction_among_others_takes_only_its_own_share() -> None:
    full = "A lua ilumina o seu coração hoje"
    assert score_texts(["", full], [full, full])["rougeL"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("predictions", "references"), [(["um"], ["um", "dois"]), (["um", "dois"], ["um"]), ([], []), ([], ["um"])]
)
def test_different_numbers_of_texts_or_none_are_an_error(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(predictions)} predictions for {len(references)} references"):
        score_texts(predictions, references)


def test_scoring_works_again_after_an_error() -> None:
    with pytest.raises(TypeError):
        score_texts(["um", None], ["um", "dois"])  # type: ignore[list-item]
    assert score_one("um dois três quatro", "um dois três quatro")["bleu"] == pytest.approx(1.0)


def test_each_pair_can_be_scored_by_itself() -> None:
    assert rouge_f1("rougeL", [PREDICTION, "sim"], [REFERENCE, "Sim!"]) == pytest.approx([6 / 11, 1.0])
    assert chrf_of_pairs(["mãos", "ação"], ["mão", "acao"]) == pytest.approx([115 / 128, 0.125])


@pytest.mark.parametrize("score", [chrf_of_pairs, lambda one, other: rouge_f1("rougeL", one, other)])
def test_pairs_of_different_numbers_are_an_error(score: object) -> None:
    with pytest.raises(ValueError, match="shorter"):
        score(["um", "dois"], ["um"])  # type: ignore[operator]


def test_signatures_say_what_was_computed() -> None:
    signatures = metric_signatures()
    assert signatures["bleu"].startswith("nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:2.")
    assert signatures["chrf"].startswith("nrefs:1|case:lc|eff:yes|nc:6|nw:0|space:no|version:2.")
    assert signatures["rouge"] == "words:unicode|case:lc|norm:NFC|stemmer:no|F1|mean"


@pytest.mark.slow
def test_scoring_needs_no_network_and_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise OSError('no network in this test')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from cartas_mlflow.evaluation.metrics import score_texts\n"
        "print(score_texts(['ação'], ['acao'])['chrf'])"
    )
    hidden = {"HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(0.125)
    assert list(tmp_path.rglob("*")) == []
