"""A stand-in for TensorRT, made from the true API of one version and as strict as it.

It is a fake: nothing is built and nothing is computed. But it has exactly the classes, members, arguments and
enumeration members of the version whose API it was made from; using anything else raises, as the real bindings would.
What a method returns follows its documented type, unless `behaviour` says otherwise: a mapping from "Class.method" to a
function of the instance and the arguments. Objects keep what is assigned to their properties.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Behaviour = Mapping[str, Callable[..., Any]]

PLAIN: dict[str, Any] = {"bool": True, "int": 0, "str": "", "float": 0.0, "None": None, "buffer": b""}


class Member:
    """A member of an enumeration."""

    def __init__(self, enumeration: str, name: str, value: int) -> None:
        self.name = name
        self._key = (enumeration, value)

    def __int__(self) -> int:
        return self._key[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"{self._key[0]}.{self.name}"


class FakeModule:
    """The module; `used` collects "Class.member" of everything that was touched."""

    def __init__(self, api: Mapping[str, Any], behaviour: Behaviour | None = None) -> None:
        self.__name__ = api["module"]
        self.__version__ = api["version"]
        self._behaviour = behaviour or {}
        self.used: set[str] = set()
        self._functions: Mapping[str, Any] = api["functions"]
        self._classes: dict[str, Any] = {}
        for name, described in api["classes"].items():
            self._classes[name] = self._make(name, described, api["classes"])

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._functions:
            return lambda *arguments, **keywords: self._call_function(name, arguments, keywords)
        if name.startswith("_") or name not in self._classes:
            raise AttributeError(f"module {self.__name__} {self.__version__} has no attribute {name}")
        return self._classes[name]

    def _make(self, name: str, described: Mapping[str, Any], everything: Mapping[str, Any]) -> Any:
        if described["members"] is not None:
            members = {member: Member(name, member, value) for member, value in described["members"].items()}
            return type(name, (_Enumeration,), {"_members": members, "_module": self})
        chain = [described, *(everything[base] for base in described["bases"] if base in everything)]
        body: dict[str, Any] = {"_module": self, "_name": name, "_properties": {}, "_methods": {}}
        for level in reversed(chain):
            body["_properties"].update(level["properties"])
            body["_methods"].update(level["methods"])
            for nested, inner in level["nested"].items():
                body[nested] = self._make(f"{name}.{nested}", inner, everything)
        # Without a documented constructor it cannot be made from Python, only returned.
        body["_constructors"] = body["_methods"].pop("__init__", [])
        return _FakeMeta(name, (_Fake,), body)

    def make(self, name: str) -> Any:
        """An instance of a class, as TensorRT itself would make it."""
        cls = self._classes[name]
        instance = cls.__new__(cls)
        object.__setattr__(instance, "_values", {})
        return instance

    def _call_function(self, name: str, arguments: Any, keywords: Any) -> Any:
        """One call of a function of the module, checked as a method is."""
        self.used.add(name)
        returns = check(name, self._functions[name], arguments, keywords, bound=False)
        return (
            self._behaviour[name](*arguments, **keywords) if name in self._behaviour else self._default(name, returns)
        )

    def call(self, instance: Any, name: str, overloads: list[Any], arguments: Any, keywords: Any) -> Any:
        """One call of a method: checked against its overloads, then answered."""
        full = f"{instance._name}.{name}"
        self.used.add(full)
        returns = check(full, overloads, (instance, *arguments), keywords)
        if full in self._behaviour:
            return self._behaviour[full](instance, *arguments, **keywords)
        return self._default(full, returns)

    def _default(self, full: str, returns: str) -> Any:
        kind = re.sub(r"^(Optional|typing\.Optional)\[(.*)\]$", r"\2", returns)
        if kind.lower().startswith("list["):
            return []
        short = re.split(r"[.:]+", kind)[-1]
        if short in PLAIN:
            return PLAIN[short]
        known = next((each for each in (short, short.removeprefix("I")) if each in self._classes), None)
        assert known is not None, f"the fake does not know what {full} returns ({returns}); give it a behaviour"
        return self.make(known)


class _Enumeration:
    _members: Mapping[str, Member]
    _module: FakeModule

    def __init_subclass__(cls) -> None:
        for name, member in cls._members.items():
            setattr(cls, name, member)


class _FakeMeta(type):
    """Class attributes exist when the version documents them, for `hasattr` on the class itself."""

    def __getattr__(cls, name: str) -> Any:
        if name in cls.__dict__.get("_methods", {}) or name in cls.__dict__.get("_properties", {}):
            return f"{cls.__name__}.{name}"
        raise AttributeError(f"{cls.__name__} of {cls._module.__version__} has no {name}")  # type: ignore[attr-defined]


class _Fake(metaclass=_FakeMeta):
    _module: FakeModule
    _name: str
    _methods: Mapping[str, list[Any]]
    _properties: Mapping[str, Any]
    _constructors: list[Any]

    def __init_subclass__(cls) -> None:
        if "_module" in cls.__dict__:
            return
        # A class of ours that TensorRT calls: every method that it overrides must take what TensorRT gives.
        for name, function in list(cls.__dict__.items()):
            if callable(function) and name in cls._methods:
                cls._module.used.add(f"{cls._name}.{name}")
                wanted = [argument for argument, *_ in cls._methods[name][0]["arguments"]]
                code = function.__code__
                given = code.co_varnames[: code.co_argcount]
                assert len(given) == len(wanted), f"{cls._name}.{name} takes {wanted}, not {given}"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._module.used.add(f"{self._name}.__init__")
        check(f"{self._name}.__init__", self._constructors, (self, *arguments), keywords)
        object.__setattr__(self, "_values", {})
        made = self._module._behaviour.get(f"{self._name}.__init__")
        if made is not None:
            made(self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name == "_values":
            raise AttributeError(f"the constructor of {self._name} was not called")
        module, full = self._module, f"{self._name}.{name}"
        if name in self._methods:
            return lambda *arguments, **keywords: module.call(self, name, self._methods[name], arguments, keywords)
        if name not in self._properties:
            raise AttributeError(f"{self._name} of {module.__name__} {module.__version__} has no {name}")
        module.used.add(full)
        if name in self._values:
            return self._values[name]
        if full in module._behaviour:
            return module._behaviour[full](self)
        return module._default(full, self._properties[name]["type"])

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self).__dict__.get("_module") is None:  # one of ours, which may keep what it likes
            object.__setattr__(self, name, value)
            return
        module = self._module
        if name not in self._properties:
            raise AttributeError(f"{self._name} of {module.__name__} {module.__version__} has no {name} to set")
        assert self._properties[name]["writable"], f"{self._name}.{name} cannot be set"
        module.used.add(f"{self._name}.{name}")
        self._values[name] = value


def check(
    full: str, overloads: list[Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any], *, bound: bool = True
) -> str:
    """The return type of the overload that takes these arguments, the first of which is the instance that a `bound`
    method is called of. Raises TypeError when none does."""
    for overload in overloads:
        wanted = overload["arguments"]
        names = [name for name, *_ in wanted]
        given = dict(zip(names, arguments, strict=False)) | dict(keywords)
        required = {name for name, _, optional in wanted if not optional}
        fits = len(arguments) <= len(names) and required <= set(given) <= set(names)
        if fits and all(accepts(kind, given[name]) for name, kind, _ in wanted[bound:] if name in given):
            return str(overload["returns"])
    raise TypeError(f"{full} takes {[each['arguments'] for each in overloads]}, was given {arguments[1:]} {keywords}")


ACCEPTED: dict[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "SupportsInt": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "buffer": lambda value: isinstance(value, bytes | bytearray | memoryview),
    "Buffer": lambda value: isinstance(value, bytes | bytearray | memoryview),
    "Dims": lambda value: isinstance(value, tuple | list),
    "tuple": lambda value: isinstance(value, tuple),
    "list": lambda value: isinstance(value, list),
    # void *, for which pybind11 takes whatever it made itself.
    "capsule": lambda value: value is None or isinstance(value, _Fake),
    "CapsuleType": lambda value: value is None or isinstance(value, _Fake),
}


def accepts(kind: str, value: Any) -> bool:
    """Whether pybind11 would take the value for an argument of that type."""
    short = re.split(r"[.:]+", kind)[-1]
    if short in ACCEPTED:
        return ACCEPTED[short](value)
    if isinstance(value, Member):
        return value._key[0].split(".")[-1] == short
    return not isinstance(value, _Fake) or short in {value._name, *(base.__name__ for base in type(value).__mro__)}
