"""Errors that a person made and a person can mend; everything else is a bug and keeps its traceback."""


class OctavoError(Exception):
    """Base of every error that Octavo raises on purpose. Its text says what is wrong, with which value, and what to do."""


class InvalidSetting(OctavoError):
    """A setting, flag or field has a value that cannot work; the text names it and the fix. Commands exit with 2."""


class InvalidResource(OctavoError):
    """A manifest is not a valid resource; the text names the field by its path, such as `spec.replicas`."""


class ModelUnavailable(OctavoError):
    """A model source cannot be read. `reason` is a CamelCase condition reason such as `ModelNotFound`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
