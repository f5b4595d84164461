"""Networks of transformers by their configuration: nothing is downloaded, and only the library's code is run."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from mgraph.architectures.builtin import Classes
from mgraph.architectures.libraries import refuse_weights
from mgraph.errors import InputError, NotFoundError
from mgraph.factories import names_file
from mgraph.fields import Shapes
from mgraph.specs import suggestion, unknown_parameter

if TYPE_CHECKING:
    from torch import nn

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "sequence-classification": "AutoModelForSequenceClassification",
        "token-classification": "AutoModelForTokenClassification",
        "image-classification": "AutoModelForImageClassification",
        "causal-lm": "AutoModelForCausalLM",
        "masked-lm": "AutoModelForMaskedLM",
    }
)
HAVE_LABELS = ("sequence-classification", "token-classification", "image-classification")
"""Tasks whose classes are labels; those of the others are the tokens."""
_CONFIG = "config.json"
_LEFT_OUT = (
    *("auto_map", "architectures", "transformers_version", "dtype", "torch_dtype"),
    *("attn_implementation", "experts_implementation"),  # which may be the name of code in a hub
)


def huggingface(
    name: str,
    *,
    input_shape: Shapes,
    task: Annotated[str, f"what it is made for: {', '.join(TASKS)}"] = "sequence-classification",
    classes: Classes,
    **further: Any,
) -> nn.Module:
    """Make a network of transformers, freshly initialised, from a kind (``bert``) or a ``config.json``.

    ``name`` is a kind of network, with its default configuration changed by the ``further`` values; or a directory with
    a ``config.json``, or such a file, written with a ``/`` or as ``.json``. The number of labels, or of tokens for a
    language model, is that of the data. Inputs are those that the network's forward names, such as ``input_ids`` and
    ``attention_mask``; the result has ``logits``. Raises InputError for an invalid configuration, an unknown kind, task
    or value, and if transformers is not installed.
    """
    del input_shape  # the network's forward says what it takes, and it is tried on the data
    library = load_transformers()
    refuse_weights("hf", further, "_", "attn_implementation", "auto_map", "trust_remote", "quantization")
    require_task("hf", task)
    values = read_config(Path(name)) if names_file(name) else {"model_type": name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what configurations announce
        config = configured(library, f"hf:{name}", values, further, outputs_of(task, classes))
        return _made(library, task, config, name)


def load_transformers() -> Any:
    """Import transformers; raise InputError if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise InputError("transformers is not installed; install it: pip install 'mgraph[hf]'.") from None


def require_task(library: str, task: str) -> None:
    """Raise InputError for a task without a kind of network."""
    if task not in TASKS:
        raise InputError(f"{library} has no task {task!r};{suggestion(task, TASKS)} there are {', '.join(TASKS)}.")


def outputs_of(task: str, classes: int) -> dict[str, int]:
    """Return the configuration value that fits a network's outputs to the data."""
    return {"num_labels": classes} if task in HAVE_LABELS else {"vocab_size": classes}


def maker_of(library: Any, task: str, config: Any, spec: str) -> Any:
    """Return transformers' class that makes networks for a task; raise InputError if it has none of this kind."""
    maker = getattr(library, TASKS[task])
    if type(config) not in maker._model_mapping:
        raise InputError(f"{spec} has no network for {task}; give another task: {', '.join(TASKS)}.")
    return maker


def _made(library: Any, task: str, config: Any, name: str) -> nn.Module:
    maker = maker_of(library, task, config, f"hf:{name}")
    try:
        made: nn.Module = maker.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
    except ValueError:  # not all kinds have this
        made = maker.from_config(config, attn_implementation="eager", trust_remote_code=False)
    return made.float()


def configured(
    library: Any, spec: str, values: Mapping[str, Any], further: Mapping[str, Any], size: Mapping[str, int]
) -> Any:
    """Make the configuration of a kind of network from ``values``, as in a file, and those that a spec changes.

    Raises NotFoundError for a kind that transformers does not have, InputError for a value that the kind does not have.
    """
    kinds = library.CONFIG_MAPPING
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in kinds:
        raise NotFoundError(
            f"transformers has no kind of network {kind!r};{suggestion(str(kind), list(kinds))} a directory or file is "
            f"written with a /, as {spec.partition(':')[0]}:./my-model."
        )
    known = kinds[kind]().to_dict()
    for key in further:
        if key not in known:
            raise unknown_parameter(key, spec, sorted(known))
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in further.items()}
    kept = {key: value for key, value in values.items() if key != "model_type"}
    return kinds[kind].from_dict({**kept, **given, **size})


def read_config(path: Path, todo: str = "hf: takes a kind such as bert, or a path") -> dict[str, Any]:
    """Read a ``config.json``, or that of a directory, without entries that name code or its origin.

    Raises NotFoundError, saying what ``todo``, if it cannot be read; InputError if it is not such a configuration.
    """
    file = path if path.suffix == ".json" else path / _CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror}; {todo}.") from None
    except ValueError:
        raise InputError(f"{file} is not JSON; name the config.json of a network of transformers.") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise InputError(f"{file} has no model_type; name the config.json of a network of transformers.")
    return _plain(values)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what names code or a place, also in the configurations of parts, such as ``text_config``."""
    return {
        key: _plain(value) if isinstance(value, dict) and "model_type" in value else value
        for key, value in values.items()
        if key not in _LEFT_OUT and not key.startswith("_")
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing progress and loading reports to the terminal."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
