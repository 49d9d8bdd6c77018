"""On-demand features: definitions of features that a plain Python function computes from other features and inputs."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from types import CodeType, FunctionType
from typing import Any, cast
from weakref import WeakKeyDictionary

from llmfeatures.errors import DefinitionError, InvalidValueError, OnDemandError
from llmfeatures.schema import Definition, DTypeField, Entity, check_identifier
from llmfeatures.types import DType


class OnDemandFeature(Definition):
    """A feature that a pure function computes when it is asked for.

    Args:
        name: an identifier, unique within the entity, stored features included.
        entity: the entity that it describes.
        dtype: the dtype of its value, as of a stored feature.
        function: a plain function. Each of its parameters is, by name, a stored feature of the entity, one of
            ``inputs``, a join key of the entity, or ``as_of``. It gets canonical values, None for what is not present,
            and returns a value of ``dtype``, or None.
        inputs: what else it takes from the caller, name to dtype.
        vectorized: the function takes one pyarrow array per parameter, all of the same length, of the Arrow type of its
            dtype, and returns one of as many values. Online they have one value.

    Raises:
        DefinitionError: the function is no plain function, or a name is taken or of no use.
    """

    name: str
    entity: Entity
    dtype: DTypeField
    function: Callable[..., Any]
    inputs: Mapping[str, DTypeField] = {}
    vectorized: bool = False
    description: str = ""
    tags: Mapping[str, str] = {}

    def __init__(
        self,
        name: str,
        entity: Entity,
        dtype: str | DType,
        function: Callable[..., Any],
        *,
        inputs: Mapping[str, str | DType] | None = None,
        vectorized: bool = False,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        check_identifier("feature", name)
        plain = function.function if isinstance(function, OnDemandFeature) else function
        _check_function(name, plain)
        for one in inputs or {}:
            check_identifier("input", one)
        super().__init__(
            name=name,
            entity=entity,
            dtype=dtype,
            function=plain,
            inputs=dict(inputs or {}),
            vectorized=vectorized,
            description=description,
            tags=tags or {},
            **unknown,
        )
        for one in self.inputs:
            if one not in self.parameters:
                raise DefinitionError(
                    f"input {one!r} of on-demand feature {name!r} is no parameter of its function; add it, or drop it"
                )
            if one in entity.join_keys:
                raise DefinitionError(
                    f"input {one!r} of on-demand feature {name!r} is a join key of entity {entity.name!r}, which the "
                    "function can take as it is; drop the input"
                )

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the function's parameters, in its order."""
        return tuple(inspect.signature(self.function).parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, with no check of what it takes or returns."""
        return self.function(*args, **kwargs)

    def compute(self, arguments: Mapping[str, Any]) -> Any:
        """The canonical value for these arguments, one per parameter; None where the function returned None. Not for a
        vectorized feature.

        Raises:
            OnDemandError: the function raised, or returned what is no value of the dtype. It never shows a value.
        """
        # a list or json value is the plan's, and the function may change what it gets
        value = self._called(
            {name: deepcopy(one) if type(one) in (list, dict) else one for name, one in arguments.items()}
        )
        if value is None:
            return None
        try:
            return self.dtype.canonical(value)
        except InvalidValueError:
            raise self._wrong(f"a {type(value).__name__}") from None

    def compute_many(self, rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, DType]) -> list[Any | OnDemandError]:
        """The canonical value of each row of arguments, or the error that it has; ``dtypes`` are the parameters'.

        A vectorized function is called once with all rows, and once for each row when that fails.
        """
        if not self.vectorized:
            return [_caught(lambda row=row: self.compute(row)) for row in rows]
        if not rows:
            return []
        made = _caught(lambda: self._vector(rows, dtypes))
        if not isinstance(made, OnDemandError):
            return made
        if len(rows) == 1:
            return [made]
        return [one for row in rows for one in self.compute_many([row], dtypes)]

    def _vector(self, rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, DType]) -> list[Any]:
        from llmfeatures import columns

        given = {name: columns.array_of(dtypes[name], [row[name] for row in rows]) for name in self.parameters}
        array = self._called(given)
        array = array.combine_chunks() if hasattr(array, "combine_chunks") else array
        if not hasattr(array, "type") or not hasattr(array, "null_count"):
            raise self._wrong(f"a {type(array).__name__}, not an Arrow array")
        if len(array) != len(rows):
            raise self._wrong(f"{len(array)} values for {len(rows)} rows")
        if str(array.type) == "null":
            return [None] * len(rows)
        if columns.problem(self.dtype, array.type) is not None:
            raise self._wrong(f"an array of {array.type}")
        made = columns.canonical(self.dtype, array)
        if made.invalid:
            raise self._wrong("an array")
        return columns.python_values(self.dtype, made.array)

    def _called(self, arguments: Mapping[str, Any]) -> Any:
        try:
            return self.function(**arguments)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            raise OnDemandError(
                f"on-demand feature {self.name!r} failed with {type(error).__name__} at {self._place(error)}; "
                "call the function with such arguments to see why",
                feature=self.name,
            ) from None

    def _wrong(self, what: str) -> OnDemandError:
        return OnDemandError(
            f"on-demand feature {self.name!r} returned no valid {self.dtype} ({what}) at {self._place(None)}; "
            "return a value of its dtype, or None",
            feature=self.name,
        )

    def code_hash(self) -> str:
        """A short hash of the function's code: comments, layout and decorators do not count. Without its source, the
        bytecode's. It is that of the code that runs, if it was asked for once while the source was still the same."""
        return hashlib.sha256(_code_of(cast("FunctionType", self.function))).hexdigest()[:16]

    def _place(self, error: BaseException | None) -> str:
        code = cast("FunctionType", self.function).__code__
        line = code.co_firstlineno
        step = None if error is None else error.__traceback__
        while step is not None:
            if step.tb_frame.f_code is code:
                line = step.tb_lineno
            step = step.tb_next
        return f"{code.co_filename}:{line}"


def code_hash_of(function: Callable[..., Any]) -> str:
    """A short hash of a function's code, as `OnDemandFeature.code_hash`; of another callable, of its class's."""
    plain = function if isinstance(function, FunctionType) else getattr(type(function), "__call__", None)  # noqa: B004
    if not isinstance(plain, FunctionType):
        return f"{type(function).__module__}.{type(function).__qualname__}"
    return hashlib.sha256(_code_of(plain)).hexdigest()[:16]


def on_demand(
    entity: Entity,
    dtype: str | DType,
    *,
    inputs: Mapping[str, str | DType] | None = None,
    vectorized: bool = False,
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], OnDemandFeature]:
    """Make a function an `OnDemandFeature` of its own name. The result can be called as the function.

    Raises:
        DefinitionError: as `OnDemandFeature`, when decorated.
    """

    def decorate(function: Callable[..., Any]) -> OnDemandFeature:
        name = getattr(function, "__name__", "")
        return OnDemandFeature(
            name, entity, dtype, function, inputs=inputs, vectorized=vectorized, description=description, tags=tags
        )

    return decorate


def _caught(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except OnDemandError as error:
        return error


def _check_function(name: str, function: Any) -> None:
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        raise DefinitionError(f"on-demand feature {name!r} needs a function made with def")
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise DefinitionError(f"on-demand feature {name!r} needs a function that returns its value: no async, no yield")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"parameter {parameter.name!r} of on-demand feature {name!r} cannot be given by name; "
                "name each parameter, without *, ** or /"
            )


_sources: WeakKeyDictionary[FunctionType, str] = WeakKeyDictionary()


def source_of(function: FunctionType) -> str:
    """The source of a function, empty where there is none. It is read once: the file may be another one later."""
    if function not in _sources:
        try:
            _sources[function] = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError):
            _sources[function] = ""
    return _sources[function]


def _code_of(function: FunctionType) -> bytes:
    try:
        tree = ast.parse(source_of(function)).body[0]
    except (SyntaxError, IndexError):
        return _bytecode(function.__code__)
    if not isinstance(tree, ast.FunctionDef):
        return _bytecode(function.__code__)
    tree.decorator_list = []
    return ast.unparse(tree).encode()


def _bytecode(code: CodeType) -> bytes:
    # an inner function's code object prints its address, so it is hashed by what it holds
    consts = [_bytecode(one) if isinstance(one, CodeType) else repr(one).encode() for one in code.co_consts]
    return b"\0".join([code.co_code, *consts, *(name.encode() for name in code.co_names)])
