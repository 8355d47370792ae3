"""What the model does with single examples: images, texts and tables of inputs with answers."""

import base64
import io

import numpy as np
from PIL import Image

from bigjax.report.markup import Html, figure, join, tag

MAX_IMAGES = 60
MAX_PIXELS = 128  # longer edges are scaled down: the page shows thumbnails
MAX_MATRIX = 30  # more classes than this are told as a list of confusions
MAX_PAIRS = 20


def images_section(examples: dict) -> Html:
    """A grid of images with their predicted and true classes, then who is confused with whom.

    `images` uint8 [N, H, W, C] (C 1 or 3), `labels` and `predictions` int [N], `probabilities`
    float [N] (of the predicted class), `class_names` K strings, `confusion` int [K, K] with a row
    for each true class.
    """
    names = examples["class_names"]
    keys = ("images", "labels", "predictions", "probabilities")
    images, labels, predictions, probabilities = (np.asarray(examples[key]) for key in keys)
    total, wrong = len(labels), int((labels != predictions).sum())
    shown = "" if total <= MAX_IMAGES else f" The first {MAX_IMAGES} are shown."
    cards = [
        _image_card(image, names[label], names[prediction], probability, label == prediction)
        for image, label, prediction, probability in zip(
            images[:MAX_IMAGES], labels, predictions, probabilities, strict=False
        )
    ]
    return tag(
        "section",
        tag("h2", "Examples"),
        tag("p", f"{wrong} of these {total} predictions are wrong, marked ✕.{shown}"),
        tag("div", *cards, class_="images"),
        _confusion(np.asarray(examples["confusion"], np.int64), names),
    )


def text_section(samples: list[dict]) -> Html:
    """Prompts and what the model wrote after them.

    A sample is {"prompt": str, "text": str, "temperature": float}; `text` follows the prompt and
    does not repeat it.
    """
    cards = [
        tag(
            "figure",
            tag("figcaption", "temperature ", tag("b", figure(sample["temperature"]))),
            tag("pre", tag("mark", sample["prompt"]), sample["text"], dir="auto"),
            class_="sample",
        )
        for sample in samples
    ]
    return tag(
        "section",
        tag("h2", "Samples"),
        tag("p", tag("mark", "Underlined"), " is the prompt; the model wrote the rest."),
        *cards,
    )


def table_section(examples: dict) -> Html:
    """Rows of texts, such as questions with the answers given and expected; those that are wrong are marked.

    `columns` K strings, `rows` lists of K strings or numbers, `right` a bool for each row, `note` a sentence.
    """
    head = tag("tr", tag("td"), *(tag("th", column, scope="col") for column in examples["columns"]))
    rows = [
        tag(
            "tr",
            tag("td", "✓" if right else "✕"),
            *(tag("td", figure(cell) if isinstance(cell, float) else cell, dir="auto") for cell in row),
            class_=None if right else "wrong",
        )
        for row, right in zip(examples["rows"], examples["right"], strict=True)
    ]
    table = tag("div", tag("table", head, *rows, class_="rows"), class_="scroll")
    return tag("section", tag("h2", "Examples"), tag("p", examples["note"]), table)


def _image_card(image: np.ndarray, label: str, prediction: str, probability: float, right: bool) -> Html:
    """One image [H, W, C] and its classes; two classes may share a name, so `right` is told."""
    height, width = image.shape[:2]
    return tag(
        "figure",
        tag(
            "img",
            src=png_uri(image),
            alt=f"an example of {label}",
            class_="pixelated" if max(height, width) <= 64 else None,
        ),
        tag(
            "figcaption",
            tag("b", "✓" if right else "✕", "\N{NO-BREAK SPACE}", prediction),
            tag("small", f"{probability:.0%}"),
            None if right else tag("span", "true: ", label),
        ),
        class_=None if right else "wrong",
    )


def png_uri(image: np.ndarray) -> str:
    """uint8 [H, W, C], C 1 or 3, as a PNG data URI, its longer edge at most `MAX_PIXELS`."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _confusion(matrix: np.ndarray, names: list[str]) -> Html:
    """The confusion matrix int [K, K] as a table; for many classes only its largest errors."""
    if len(matrix) <= MAX_MATRIX:
        return join(
            tag("h3", "Confusion matrix"),
            tag("p", "Rows are true classes, columns are predictions."),
            tag("div", _matrix(matrix, names), class_="scroll"),
        )
    pairs = tag("div", _pairs(matrix, names), class_="scroll")
    return join(tag("h3", "Most confused classes"), pairs)


def _matrix(matrix: np.ndarray, names: list[str]) -> Html:
    totals = matrix.sum(axis=1)  # [K]
    shares = matrix / np.maximum(totals, 1)[:, None]  # [K, K]
    head = tag(
        "tr",
        tag("td"),
        *(tag("th", tag("span", name), scope="col") for name in names),
        tag("th", tag("span", "recall"), scope="col", class_="recall"),
    )
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(_cell(matrix[i, j], shares[i, j], i == j) for j in range(len(names))),
            tag("td", f"{shares[i, i]:.1%}" if totals[i] else "n/a", class_="recall"),
        )
        for i, name in enumerate(names)
    ]
    long_names = max(map(len, names), default=0) > 4
    return tag("table", head, *rows, class_="matrix upright" if long_names else "matrix")


def _cell(count: int, share: float, right: bool) -> Html:
    """One count, on a ground that is stronger for a larger share (by square root: 1% is seen)."""
    if not count:
        return tag("td", "0", class_="none")
    strength = np.sqrt(share)
    kind = ("right" if right else "error") + (" strong" if strength > 0.7 else "")
    return tag("td", count, class_=kind, style=f"--strength:{strength:.2f}")


def _pairs(matrix: np.ndarray, names: list[str]) -> Html:
    errors = matrix - np.diag(np.diag(matrix))
    largest = np.argsort(-errors, axis=None, kind="stable")[:MAX_PAIRS]
    rows = [
        tag(
            "tr",
            tag("td", names[true]),
            tag("td", names[predicted]),
            tag("td", errors[true, predicted], class_="number"),
            tag("td", f"{errors[true, predicted] / matrix[true].sum():.1%}", class_="number"),
            tag("td", f"{matrix[true, true] / matrix[true].sum():.1%}", class_="number"),
        )
        for true, predicted in zip(*np.unravel_index(largest, errors.shape), strict=True)
        if errors[true, predicted]
    ]
    words = [tag("th", title, scope="col") for title in ("true class", "predicted")]
    numbers = [tag("th", title, scope="col", class_="number") for title in ("times", "of the true class", "recall")]
    return tag("table", tag("tr", *words, *numbers), *rows, class_="pairs")
