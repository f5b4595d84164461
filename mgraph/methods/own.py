"""A user's own methods and families, named ``file.py:Class`` or ``package.module:Class``.

:func:`method_from` and :func:`load_family` turn a name into a class; both run its code through the single entry point
(:func:`mgraph.factories.load_factory`). :func:`spec_of` finds the name of a class that is already loaded, so that what
a script passes as an object can be stored and resumed as well. If the named class is the family of a path rather than a
method, it is trained like a curve.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, get_type_hints

from typing_extensions import override

from mgraph import trust, usercode
from mgraph.errors import InputError, MGraphError
from mgraph.factories import find_source, load_factory, source_of
from mgraph.families import FAMILIES, BentPath, Family, OwnFamily
from mgraph.methods.base import Method, wrong_ends
from mgraph.methods.curves.path import TrainedPath
from mgraph.sources import lies_installed
from mgraph.specs import Spec, fitted, unknown_parameter
from mgraph.trust import NAMED, Consent, OfGraph, speaker, speaking

_BENDS = "bends"


@dataclass(frozen=True, kw_only=True)
class OwnPath(TrainedPath):
    """Training, like a curve, of the user's own path of class ``shape`` with the fields ``given``."""

    references: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar[type[BentPath]]
    given: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @override
    def family(self, ends: int) -> Family:
        """Return the path; it takes two ends."""
        if ends != 2:
            raise InputError(wrong_ends(self.name, ends, "exactly 2 modes"))
        try:
            return self.shape(bends=self.bends, **self.given)
        except (TypeError, ValueError) as error:
            fields = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
            raise InputError(f"{self.shape.__name__} cannot be made with {fields}: {error}.") from None


def method_from(text: str, taken: tuple[str, ...], *, base: Path | None = None) -> type[Method]:
    """Load a method class, or make one from a path's class, as a user names it in directory ``base`` (default: here).

    A path's other fields are given with its name: ``file.py:Class?field=value``. Raises InputError for a class that is
    neither, or whose name is ``taken`` by a built-in method, UntrustedError if its code may not run, and NotFoundError
    if it does not exist.
    """
    spec = Spec.parse(text)
    found: Any = load_factory(Spec(spec.name), base=base or Path.cwd(), consent=speaker())
    if isinstance(found, type) and issubclass(found, BentPath):
        known = {"name": found.name, "summary": f"a {found.noun} of your own, trained like a curve", "shape": found}
        known["given"] = MappingProxyType(_further(found, spec))
        found = dataclass(frozen=True, kw_only=True)(type(found.__name__, (OwnPath,), known))
    elif spec.params:
        raise InputError(f"A method's settings are not part of its name; write {spec.name} and give them by -s.")
    if not isinstance(found, type) or not issubclass(found, Method):
        raise InputError(f"{spec.name} is not a subclass of mgraph.Method, nor of mgraph.families.BentPath.")
    for word in ("name", "summary"):
        if not isinstance(getattr(found, word, None), str):
            raise InputError(f"The method {spec.name} needs a {word}: ClassVar[str].")
    require_free(found, taken)
    copyreg.pickle(found, _reduced)  # the module as which its code was run exists only in this process
    return found


def _further(shape: type[BentPath], spec: Spec) -> dict[str, Any]:
    """Read the fields of a path's class that are given with its name; raise InputError for one it does not have."""
    if not spec.params:
        return {}
    try:
        hints = get_type_hints(shape)
    except NameError as error:
        raise InputError(f"The types of {spec.name}'s fields cannot be read: {error}.") from None
    known = {f.name: hints[f.name] for f in fields(shape) if f.init and f.name != _BENDS}
    if _BENDS in spec.params:
        raise InputError(f"The bends of {spec.name} are a setting of its training; give them by --bends.")
    for name in spec.params:
        if name not in known:
            raise unknown_parameter(name, spec.name, known)
    return {name: fitted(name, known[name], value) for name, value in spec.params.items()}


def _reduced(method: Method) -> tuple[Any, ...]:
    """Send a method to a worker as its settings and the name of its class, which the user gave."""
    return _sent, (str(spec_of(method)), {f.name: getattr(method, f.name) for f in fields(method)})


def _sent(text: str, settings: dict[str, Any]) -> Method:
    return method_from(text, ())(**settings)


def require_free(cls: type[Method], taken: tuple[str, ...]) -> None:
    """Raise InputError for a user's method that has the name of a built-in one."""
    if cls.name in taken or not cls.name:
        raise InputError(f"The name {cls.name!r} of {cls.__name__} is that of a built-in method; choose another.")


def spec_of(thing: Method | Family) -> Spec | None:
    """Return the name of an object's class, with the absolute path of its file; None for a built-in class.

    Also None for what cannot be named: a class in a running script or notebook, or inside a function.
    """
    cls, given = (thing.shape, thing.given) if isinstance(thing, OwnPath) else (type(thing), {})
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    module = usercode.plainly(f"{cls.__module__}.").rstrip(".")
    if file is None or module == "__main__" or module.partition(".")[0] == "mgraph" or "." in cls.__qualname__:
        return None
    by_module = "." in module or lies_installed(Path(file))
    spec = Spec(f"{module if by_module else file}:{cls.__qualname__}", given)
    try:
        find_source(spec, base=Path.cwd())
    except MGraphError:
        return None
    return spec


def typed_here(method: Method) -> str | None:
    """Return how a method's class would be named in this directory; None in the same cases as :func:`spec_of`."""
    spec = spec_of(method)
    return None if spec is None else str(source_of(spec, typed_in=Path.cwd(), base=Path.cwd())[0])


def trust_here(method: Method, graph: Path) -> None:
    """Trust the code of a user's method in a graph, provided the user is the one who names it.

    Whatever was made with it is then shown and drawn as the method defines.
    """
    found = spec_of(method)
    if found is not None and speaker() is NAMED:
        spec, source = source_of(Spec(found.name), typed_in=Path.cwd(), base=graph)
        assert source is not None
        trust.trust(graph, str(spec), source.hash, source.files)


def load_method(text: str, typed_in: Path, graph: Path, consent: Consent) -> type[Method]:
    """Load the class of a method that a graph names, as its user typed it in directory ``typed_in``.

    Raises UntrustedError without consent, NotFoundError if it does not exist, InputError if it is not a method.
    """
    spec, _ = source_of(Spec.parse(text), typed_in=typed_in, base=graph)
    with speaking(consent):
        return method_from(str(spec), (), base=graph)


def storable(family: Family, graph: Path) -> Family:
    """Return a family in a form that a graph can describe: the user's own become the name and hash of their class.

    If the user is the one who names it, its code is trusted in this graph from now on; otherwise the graph asks. Raises
    InputError for a class that cannot be named, or that is not a sound family.
    """
    if isinstance(family, OwnFamily) or type(family) in FAMILIES.values():
        return family
    found = spec_of(family)
    if found is None:
        raise InputError(
            f"The family {type(family).__name__} is defined in a running script or inside a function, where a graph "
            f"cannot find it again; put it into a file of its own and import it from there."
        )
    spec, source = source_of(found, typed_in=Path.cwd(), base=graph)
    assert source is not None
    own = OwnFamily.of(family, str(spec), source.hash)
    if speaker() is NAMED:
        trust.trust(graph, str(spec), source.hash, source.files)
    else:
        speaker().ask(str(spec), source.hash, source.files)
    return own


def load_family(own: OwnFamily, graph: Path, consent: Consent | None = None) -> Family:
    """Load the class of a family that a graph describes, and make the family.

    Raises UntrustedError without consent (default: what was trusted in this graph), and InputError if the code is not
    the code that the connection was made with.
    """
    spec = Spec.parse(own.code)
    source = find_source(spec, base=graph)
    (consent or OfGraph(graph)).ask(str(spec), source.hash, source.files)
    if source.hash != own.known["hash"]:
        raise InputError(
            f"The family {own.code} is not the one that the connection was made with (its code changed), so it "
            f"would give other points; restore the code."
        )
    cls: Any = load_factory(spec, base=graph, consent=consent or OfGraph(graph))
    if not isinstance(cls, type) or not issubclass(cls, Family):
        raise InputError(f"{own.code} is not a family.")
    return own.rebuilt(cls)
