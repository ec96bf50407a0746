"""Where each tensor of a checkpoint goes: layers say what they expect while they are built, then all is loaded at once.

Parameters are made once, in the dtype that is computed in; a tensor is converted while it is copied to its place,
which may be a part of a fused matrix.
"""

from collections.abc import Callable, Iterable

import torch
from msgspec import Struct
from torch import Tensor

from octavo_api.errors import ModelUnavailable

OnLoaded = Callable[[int], None]
"""Called with the bytes of each tensor that was read."""

_SHOWN = 8


class _Place(Struct, frozen=True):
    target: Tensor
    offset: float


class Weights:
    """The parameters of one model."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._places: dict[str, _Place] = {}
        self._optional: set[str] = set()
        self._finishers: list[Callable[[], None]] = []

    def empty(self, *shape: int) -> Tensor:
        """A parameter to be filled by what `expect` says of its parts."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def expect(self, name: str, target: Tensor, offset: float = 0.0) -> None:
        """The checkpoint's tensor `name`, plus `offset`, belongs into `target`."""
        self._places[name] = _Place(target, offset)

    def parameter(self, name: str, *shape: int, offset: float = 0.0) -> Tensor:
        """A parameter that is one tensor of the checkpoint."""
        target = self.empty(*shape)
        self.expect(name, target, offset)
        return target

    def tolerate(self, name: str) -> None:
        """The checkpoint may hold a tensor `name` that is not needed."""
        self._optional.add(name)

    def finally_do(self, finish: Callable[[], None]) -> None:
        """`finish` is called when everything is loaded, such as to bring a matrix into a kernel's layout."""
        self._finishers.append(finish)

    def targets(self) -> Iterable[tuple[str, Tensor]]:
        """Everything that is expected, by name."""
        return ((name, place.target) for name, place in self._places.items())

    def load(self, tensors: Iterable[tuple[str, Tensor]], on_loaded: OnLoaded) -> None:
        """Copies every tensor to its place.

        Raises:
            ModelUnavailable: tensors are missing, or there are ones that the model does not know, or of another shape.
        """
        missing = dict.fromkeys(self._places)
        unexpected = []
        for name, tensor in tensors:
            place = self._places.get(name)
            on_loaded(tensor.numel() * tensor.element_size())
            if place is None:
                if name not in self._optional:
                    unexpected.append(name)
                continue
            if tensor.shape != place.target.shape:
                raise ModelUnavailable(
                    "ModelInvalid", f"tensor {name} is {list(tensor.shape)}, must be {list(place.target.shape)} by config.json; the two do not belong together"
                )
            place.target.copy_(tensor if place.offset == 0.0 else tensor.float() + place.offset)
            missing.pop(name, None)
        if missing or unexpected:
            raise ModelUnavailable("ModelInvalid", "; ".join(_named("missing", list(missing)) + _named("not part of this model", unexpected)))
        self.finish()

    def finish(self) -> None:
        """Does what was left until every parameter has its value. Nothing of a checkpoint can be placed any more, so that
        what `finally_do` replaces is freed."""
        self._places.clear()
        for finish in self._finishers:
            finish()


def _named(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} tensors are {what}: {', '.join(names[:_SHOWN])}{more}"]
