"""Groups of parameters that scikit-learn can clone, set, search and print."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Self


class ParameterGroup:
    """Base class of dataclasses that are parameters of an estimator, like scikit-learn's kernels.

    Values are checked by `fit`, not when a group is created or changed.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Ignored: a group has no estimators in it.

        Returns
        -------
        parameters : dict of str to object
            By name.
        """
        assert is_dataclass(self)
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Change parameters.

        Parameters
        ----------
        **params : object
            New values by name.

        Returns
        -------
        self : ParameterGroup
            The same group.

        Raises
        ------
        ValueError
            There is no parameter with that name.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Show the parameters that differ from their defaults."""
        assert is_dataclass(self)
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.default is MISSING or repr(getattr(self, field.name)) != repr(field.default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"
