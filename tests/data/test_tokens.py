"""Tokens: there and back for any text, and the bytes that each token stands for."""

import hashlib
from pydoc_data.topics import topics

import numpy as np
import pytest
from helpers import run_python
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing

from bigjax.data import tokenizer as tokenizer_module
from bigjax.data.tokenizer import chunks
from bigjax.data.tokens import make_tokenizer
from bigjax.errors import UserError

TEXTS = [
    "plain words, and  two  spaces\n",
    "Grüße, naïve café — “quotes”\n\n\ttabs\r\n",
    "日本語 עברית العربية हिन्दी",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 \u0000\u00ad\u2028\ufeff",
    "x = {'a': 1}\n    return x  # no newline at the end",
    "",
]
TRAIN = np.frombuffer((topics["assignment"] + TEXTS[1] * 3).encode(), np.uint8)


def encoded(text):
    return np.frombuffer(text.encode(), np.uint8)


@pytest.fixture(scope="module", params=["bytes", "bpe", "file"])
def tokenizer(request, tmp_path_factory):
    if request.param == "file":
        folder = tmp_path_factory.mktemp("tokenizer")
        (folder / "tokenizer.json").write_text(make_tokenizer("bpe", 400, TRAIN).files["tokenizer.json"])
        return make_tokenizer(str(folder), None, TRAIN[:0])
    return make_tokenizer(request.param, 400 if request.param == "bpe" else None, TRAIN)


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_decoding_undoes_encoding(tokenizer, text):
    ids = tokenizer.encode(encoded(text))
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.astype(np.int32)) == text  # as they come from the device
    assert tokenizer.decode(ids.tolist()) == text


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_token_bytes_add_up_to_the_text(tokenizer, text):
    ids = tokenizer.encode(encoded(text))
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    newlines = [i for i, token in enumerate(ids) if tokenizer.newline[token]]
    assert "\n" not in text or newlines
    ends = np.cumsum(tokenizer.token_bytes[ids])
    begins = ends - tokenizer.token_bytes[ids]
    holders = [i for i in range(len(ids)) if b"\n" in text.encode()[begins[i] : ends[i]]]
    assert newlines == holders


def test_a_checkpoints_tokenizer_with_special_tokens(tmp_path):
    """As Llama 3's: a token before each text, which running text must not get, and names that are plain text."""
    bpe = Tokenizer.from_str(make_tokenizer("bpe", 400, TRAIN).files["tokenizer.json"])
    bpe.add_special_tokens(["<|begin|>", "<|é|>"])
    bpe.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 400)])
    assert bpe.encode("x").ids[0] == 400
    bpe.save(str(tmp_path / "tokenizer.json"))
    loaded = make_tokenizer(str(tmp_path / "tokenizer.json"), None, TRAIN[:0])
    ids = loaded.encode(encoded("a<|é|>b"))
    assert 400 not in ids and 401 in ids
    assert loaded.token_bytes[ids].sum() == len("a<|é|>b".encode())
    assert len(loaded.token_bytes) == 402


def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    Tokenizer(WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "words.json"))
    for name, message in (("gone", "there is no"), ("broken.json", "no tokenizer"), ("words.json", "byte-level BPE")):
        with pytest.raises(UserError, match=message):
            make_tokenizer(str(tmp_path / name), None, TRAIN)
    with pytest.raises(UserError, match="leave it out"):
        make_tokenizer(str(tmp_path / "words.json"), 400, TRAIN)


def test_bpe_shortens_what_it_learned_from():
    bpe = make_tokenizer("bpe", 400, TRAIN)
    ids = bpe.encode(TRAIN)
    assert len(bpe.token_bytes) == len(bpe.newline) == 400
    assert ids.max() < 400
    assert len(ids) < 0.7 * len(TRAIN)
    assert ids.dtype == np.uint16


def test_bpe_of_256_is_bytes_by_other_names():
    bpe = make_tokenizer("bpe", 256, TRAIN)
    assert (bpe.token_bytes == 1).all()
    assert len(bpe.encode(TRAIN)) == len(TRAIN)


def test_bpe_is_the_same_in_every_process():
    code = (
        "import hashlib, numpy as np\n"
        "from pydoc_data.topics import topics\n"
        "from bigjax.data.tokens import make_tokenizer\n"
        f"train = np.frombuffer((topics['assignment'] + {TEXTS[1] * 3!r}).encode(), np.uint8)\n"
        "print(hashlib.sha256(make_tokenizer('bpe', 400, train).files['tokenizer.json'].encode()).hexdigest())"
    )
    here = hashlib.sha256(make_tokenizer("bpe", 400, TRAIN).files["tokenizer.json"].encode()).hexdigest()
    assert run_python(code, PYTHONHASHSEED="7", RAYON_NUM_THREADS="1").strip() == here


def test_long_texts_are_encoded_in_pieces_that_end_at_lines(monkeypatch, tokenizer):
    monkeypatch.setattr(tokenizer_module, "CHUNK", 50)
    pieces = list(chunks(TRAIN))
    assert "".join(pieces) == TRAIN.tobytes().decode()
    assert len(pieces) > 20
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert min(len(piece.encode()) for piece in pieces[:-1]) >= 50
    assert tokenizer.decode(tokenizer.encode(TRAIN)) == TRAIN.tobytes().decode()


def test_bytes_that_are_no_text_decode_to_replacements():
    assert make_tokenizer("bytes", None, TRAIN).decode([72, 105, 255, 33]) == "Hi\ufffd!"
    assert make_tokenizer("bytes", 256, TRAIN).files == {}


@pytest.mark.parametrize(
    ("kind", "size", "train", "words"),
    [
        ("bytes", 300, TRAIN, "256 for byte tokens, not 300"),
        ("bpe", None, TRAIN, "must be 256 or more for 'bpe', not None"),
        ("bpe", 255, TRAIN, "must be 256 or more for 'bpe', not 255"),
        ("bpe", 300, encoded("ab"), "only enough repetition for a BPE of 257 tokens"),
        ("bpe", 300, np.frombuffer(b"good\xff", np.uint8), "not UTF-8 at byte 4"),
    ],
)
def test_tokenizers_that_cannot_be_are_refused(kind, size, train, words):
    with pytest.raises(UserError, match=words):
        make_tokenizer(kind, size, train)


def test_an_empty_text_has_no_tokens(tokenizer):
    assert len(tokenizer.encode(encoded(""))) == 0
    assert tokenizer.decode([]) == ""
