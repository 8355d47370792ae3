"""Downloads a data set of TensorFlow Datasets and writes it as ArrayRecord files, which need no TensorFlow to read."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bigjax.data.imagenet import imagenet_splits
from bigjax.errors import UserError, nearest


def prepare(dataset: str, data_dir: str | None = None, manual_dir: str | None = None) -> Path:
    """Prepares `dataset` (a TFDS name, `name[/config][:version]`) unless it is there, and prints and returns where.

    Args:
      data_dir: where TFDS keeps its data; None is its own default, ~/tensorflow_datasets or TFDS_DATA_DIR.
      manual_dir: holds files that had to be downloaded by hand; None is downloads/manual below `data_dir`.

    Raises:
      UserError: an unknown name, a builder that needs TensorFlow, files that must be downloaded by hand, a download
        that failed, or a folder that is in the way.
    """
    import tensorflow_datasets as tfds

    builder = find_builder(dataset, data_dir)
    name, path = builder.info.full_name, Path(builder.data_path)
    if builder.is_prepared():
        if not builder.info.available_file_formats() & tfds.core.FileFormat.with_random_access():
            raise UserError(
                f"{path} holds {name} as {builder.info.file_format.value}, which needs TensorFlow to read; remove that "
                "folder or choose another with --data-dir."
            )
        print(f"{name} is already prepared in {path}.")
        return path
    if path.exists():
        raise UserError(f"{path} is in the way: it holds no complete {name}; remove it and try again.")
    print(f"Preparing {name} in {path}.")
    options = tfds.download.DownloadConfig(manual_dir=manual_dir)
    if not has_tensorflow():
        manager = builder._make_download_manager(None, options)
        manager.download_and_extract = partial(without_archives, manager.download_and_extract)
        builder._make_download_manager = lambda **_: manager
        if builder.name == "imagenet2012":  # its archives need none
            classes = builder.info.features["label"].names
            builder._split_generators = lambda dl_manager: imagenet_splits(Path(dl_manager.manual_dir), classes)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a banner about TensorFlow; progress goes to standard error
            builder.download_and_prepare(file_format="array_record", download_config=options)
    except ImportError as error:
        raise UserError(f"{name} cannot be prepared without {missing_module(error)}") from error
    except (OSError, tfds.download.DownloadError) as error:
        raise UserError(
            f"{name} could not be downloaded and prepared in {path}: {one_line(error)}; "
            "check the network and the disk, then try again."
        ) from error
    except AssertionError as error:
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
            raise
        raise UserError(f"{name} has to be downloaded by hand: {one_line(error)}") from error
    print(f"Prepared {name} in {path}.")
    return path


def without_archives(fetch: Callable[[Any], Any], urls: Any) -> Any:
    """`fetch(urls)`, which downloads and unpacks; an archive is refused at once, for TFDS unpacks it by TensorFlow."""
    from tensorflow_datasets.core.download.resource import ExtractMethod, guess_extract_method
    from tensorflow_datasets.core.utils.lazy_imports_utils import tree

    for url in tree.flatten(urls):  # each is a text or a TFDS Resource, which may say how it is unpacked
        method = getattr(url, "_extract_method", None) or guess_extract_method(getattr(url, "url", url))
        if method != ExtractMethod.NO_EXTRACT:
            raise ModuleNotFoundError(name="tensorflow")
    return fetch(urls)


def prepared_builder(dataset: str, data_dir: str | None) -> Any:
    """The builder of a data set that is on the disk."""
    builder = find_builder(dataset, data_dir)
    if not builder.is_prepared():
        where = "" if data_dir is None else f" --data-dir={data_dir}"
        raise UserError(
            f"{dataset!r} is not prepared in {builder.data_path}; do it with `bigjax data prepare {dataset}{where}`."
        )
    return builder


def find_builder(dataset: str, data_dir: str | None) -> Any:
    """The TFDS builder of `dataset`; raises UserError where there is none or it needs TensorFlow."""
    import tensorflow_datasets as tfds

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a banner about TensorFlow
            return tfds.builder(dataset, data_dir=data_dir)
    except ImportError as error:
        raise UserError(f"{dataset!r} has features that cannot be read without {missing_module(error)}") from error
    except tfds.core.DatasetNotFoundError as error:
        # Without TensorFlow, TFDS does not list the builders whose code needs it.
        more = "" if has_tensorflow() else " Some names are known only with TensorFlow: pip install 'bigjax[tf]'."
        known = tfds.list_builders(with_community_datasets=False)
        raise UserError(
            f"There is no TFDS data set {dataset!r}; {nearest(dataset.split('/')[0], known)}{more}"
        ) from error
    except (ValueError, TypeError, AssertionError) as error:
        name, _, config = dataset.partition("/")
        with contextlib.suppress(tfds.core.DatasetNotFoundError, ValueError):
            configs = tfds.builder_cls(name).builder_configs
            if config and config.split(":")[0] not in configs:
                raise UserError(f"{name!r} has no config {config!r}; {nearest(config, configs)}") from error
        raise UserError(f"{dataset!r} cannot be found by TFDS: {one_line(error)}") from error


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def missing_module(error: BaseException) -> str:
    """The module whose absence led to `error`, and how to get it."""
    while error.__cause__ is not None:  # TFDS wraps errors in others, and what is known of the module gets lost
        error = error.__cause__
    name = getattr(error, "name", None) or "tensorflow"
    return "TensorFlow: pip install 'bigjax[tf]'." if name == "tensorflow" else f"the Python module {name!r}."


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()).rstrip(".")
