"""Sentence vectors of a real checkpoint, all-MiniLM-L6-v2, against transformers.

The folder is named by the environment variable BIGJAX_MINILM.
"""

import os

import numpy as np
import pytest
from helpers import ROOT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from bigjax.inference.embed import embed
from bigjax.pretrained.load import load_pretrained

FOLDER = os.environ.get("BIGJAX_MINILM")
DATA = ROOT.parent / "shared/data/sst2/dev.tsv"
pytestmark = pytest.mark.skipif(FOLDER is None, reason="BIGJAX_MINILM does not name the checkpoint's folder")


@pytest.fixture(scope="module")
def pretrained():
    return load_pretrained(FOLDER)


def theirs(sentences):
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModel.from_pretrained(FOLDER).eval()
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=512, return_tensors="pt")
    with torch.no_grad():
        x, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((x * mask).sum(1) / mask.sum(1)).numpy()


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"there is no {DATA}")
def test_vectors_of_a_hundred_sentences(pretrained):
    lines = DATA.read_text().splitlines()[1:101]
    sentences = [line.rpartition("\t")[0] for line in lines]
    expected, actual = theirs(sentences), embed(pretrained, sentences, batch_size=32)
    assert len(actual) == 100
    print("largest difference", np.abs(actual - expected).max())
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_alike_is_near(pretrained):
    sentences = ["A man is eating food.", "A man eats a meal.", "The stock market fell sharply today."]
    vectors = embed(pretrained, sentences)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    print("cosine similarities", near, far)
    np.testing.assert_allclose(vectors, theirs(sentences), atol=1e-5)
    assert near > 0.6
    assert far < 0.2
