"""Raw JSON that somebody else wrote, read field by field: absent and null are the same, another type is a problem."""

from __future__ import annotations

from typing import Any

from bitfusiond.core.text import shown

Json = dict[str, Any]  # an object of a JSON document


class Field:
    """A value in a :class:`Document`, with its path and the problems found in the document so far."""

    __slots__ = ("_key", "_spoilt", "parent", "value")

    def __init__(self, value: Any, parent: Field, key: str | int) -> None:
        """All come from a :class:`Document`."""
        self.value = value
        self.parent = parent
        self._key = key

    @property
    def problems(self) -> list[str]:
        """Those of the whole document: lines ``PATH: what is wrong and what is allowed``."""
        return self.parent.problems

    @property
    def is_sound(self) -> bool:
        """Whether no problem was noted by this object, nor by one that was got from it; a field got anew is sound."""
        return not hasattr(self, "_spoilt")

    @property
    def path(self) -> str:
        """Where it is in its document; worked out when asked for, as most have no problem."""
        return self._step(self.parent.path)

    @property
    def pointer(self) -> str:
        """The same as a JSON Pointer, as patches have it: ``/spec/containers/0``."""
        return self.parent.pointer + segment(self._key)

    def _step(self, above: str) -> str:
        """The path of this field, whose object's is ``above``."""
        return f"{above}.{self._key}" if above else str(self._key)

    def __getitem__(self, name: str) -> Field:
        """The field ``name`` of an object: ``spec.volumes``. None is its value where there is no such field."""
        value = self.value
        return Field(value.get(name) if isinstance(value, dict) else None, self, name)

    def entry(self, key: str) -> Field:
        """The value under ``key`` of a map whose keys the user chose: ``metadata.annotations[KEY]``."""
        value = self.value
        return _Entry(value.get(key) if isinstance(value, dict) else None, self, key)

    def read_as(self, value: Any) -> Field:
        """The same field, its value read as ``value``: a text as the words in it."""
        return type(self)(value, self.parent, self._key)

    def line(self, message: str) -> str:
        """``message`` about this field, as a problem or a warning says it."""
        path = self.path
        return f"{path}: {message}" if path else message

    def problem(self, message: str) -> None:
        """Note that something is wrong with this field: ``PATH: message``."""
        self._note(self.line(message))

    def sentence(self, predicate: str) -> None:
        """Note what is wrong in a sentence that begins with this field: ``PATH predicate``."""
        self._note(f"{self.path} {predicate}")

    def _note(self, line: str) -> None:
        self.problems.append(line)
        self._spoil()

    def _spoil(self) -> None:
        # A mark on each, as a set of them in the document would be a cycle: a pod that is refused would stay in memory
        # until the garbage collector comes.
        self._spoilt = True
        self.parent._spoil()  # noqa: SLF001 - a Field too

    def mapping(self, most: int | None = None) -> Json:
        """The value as an object; ``{}`` where there is none, it is no object, or it has over ``most`` entries."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.problem(f"must be an object, not {shown(self.value)}")
            return {}
        counted: Json = self._counted(self.value, most)
        return counted

    def objects(self, most: int | None = None) -> list[Json]:
        """The value as a list of objects; ``[]`` where there is none, it is another thing, or longer than ``most``."""
        return self._counted(self.value, most) if self._is_list_of(dict, "objects") else []

    def strings(self) -> list[str]:
        """The value as a list of strings; ``[]`` where there is none or it is another thing."""
        return self.value if self._is_list_of(str, "strings") else []

    def items(self, most: int | None = None) -> list[Field]:
        """The objects of :meth:`objects`, each with its own path: ``spec.containers[0]``."""
        return self._elements(self.objects(most))

    def elements(self) -> list[Field]:
        """The elements of a list, whatever they are; none where it is no list, which is for the caller to say."""
        return self._elements(self.value) if isinstance(self.value, list) else []

    def _elements(self, values: list[Any]) -> list[Field]:
        return [_Entry(value, self, index) for index, value in enumerate(values)]

    def _is_list_of(self, kind: type, plural: str) -> bool:
        """Whether the value is a list of ``kind``; where it is anything else but absent, note that as a problem."""
        if self.value is None:
            return False
        if isinstance(self.value, list):
            for each in self.value:
                if not isinstance(each, kind):
                    break
            else:
                return True
        self.problem(f"must be a list of {plural}, not {shown(self.value)}")
        return False

    def _counted(self, value: Any, most: int | None) -> Any:
        """``value``, or an empty one, with a problem, where it has more than ``most`` entries."""
        if most is not None and len(value) > most:
            self.problem(f"has {len(value)} entries: bitfusiond takes at most {most}")
            return type(value)()
        return value


class Document(Field):
    """All of a document, which is in no other: it has neither ``parent`` nor ``read_as``."""

    __slots__ = ("_problems",)

    def __init__(self, value: Any) -> None:
        self.value = value
        self._problems: list[str] = []

    @property
    def problems(self) -> list[str]:
        return self._problems

    @property
    def path(self) -> str:
        return ""

    @property
    def pointer(self) -> str:
        return ""

    def _spoil(self) -> None:
        self._spoilt = True


class _Entry(Field):
    """An element of a list, or what is under a key of a map."""

    __slots__ = ()

    def _step(self, above: str) -> str:
        return f"{above}[{shown(self._key)}]"


def segment(key: str | int) -> str:
    """A part of a JSON Pointer; ``~`` and ``/`` inside a key are escaped (RFC 6901, section 3)."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


def mapping(value: object, *keys: str) -> Json:
    """The object under ``keys`` of ``value``; ``{}`` where that is anything else. For what others have checked."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Json]:
    """The objects of a list; ``[]`` where ``value`` is no list of objects. For what others have checked."""
    return value if isinstance(value, list) and all(isinstance(each, dict) for each in value) else []


def strings(value: object) -> list[str]:
    """The strings in a list; ``[]`` where ``value`` is no list. For what others have checked."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def names_of(items: list[Json], key: str = "name") -> set[str]:
    """What ``items`` are called; those without a string for a name are for the API server to refuse."""
    return {name for item in items if isinstance(name := item.get(key), str)}
