"""The kinds of models that recipes name, and how a config file becomes one."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from typing import Any, cast, get_args, get_type_hints

from torch import nn

from workshop_lib.errors import WorkshopError

# family: (module, model class, config class); imported when asked for
FAMILIES: dict[str, tuple[str, str, str]] = {
    "diffusion": ("workshop_lib.models.diffusion", "Diffusion", "DiffusionConfig"),
    "diffusion_unet": (
        "workshop_lib.models.diffusion_unet",
        "DiffusionUNet",
        "DiffusionUNetConfig",
    ),
    "dynamics": ("workshop_lib.models.dynamics", "Dynamics", "DynamicsConfig"),
    "tokenizer": ("workshop_lib.models.tokenizer", "Tokenizer", "TokenizerConfig"),
    "latent_action": (
        "workshop_lib.models.latent_action",
        "LatentActionModel",
        "LatentActionConfig",
    ),
    "next_frame": ("workshop_lib.models.next_frame", "NextFrame", "NextFrameConfig"),
    "termination": ("workshop_lib.models.termination", "Termination", "TerminationConfig"),
}
OF_PIXELS = ("next_frame", "diffusion_unet", "diffusion")  # worlds whose frames are never tokens


def model_classes(family: str) -> tuple[type[nn.Module], type]:
    """The model class and its config class.

    Raises WorkshopError for an unknown family.
    """
    if family not in FAMILIES:
        raise WorkshopError(
            f"unknown family {family!r}: choose one of {', '.join(sorted(FAMILIES))}"
        )
    module_name, model, config = FAMILIES[family]
    module = import_module(module_name)
    return getattr(module, model), getattr(module, config)


def config_from_dict(config_class: type, values: dict[str, Any]) -> Any:
    """A config dataclass, nested ones included, from the plain values of a file.

    Of several classes for one field, the value's `kind` chooses.

    Raises WorkshopError naming the first key or value that does not fit.
    """
    name = config_class.__name__
    if not isinstance(values, dict):
        raise WorkshopError(f"{name}: {values!r} is not a set of keys and values")
    hints = get_type_hints(config_class)
    unknown = sorted(set(values) - {field.name for field in fields(config_class)})
    if unknown:
        raise WorkshopError(f"{name}: unknown key {unknown[0]!r}")
    try:
        return config_class(**{key: _value(hints[key], value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise WorkshopError(f"{name}: {error}") from error


def _value(hint: Any, value: Any) -> Any:
    """A plain value as the type that the field has."""
    choices: dict[str, type] = {
        getattr(choice, "kind", ""): cast(type, choice)
        for choice in (get_args(hint) or (hint,))
        if is_dataclass(choice)
    }
    if choices and not (value is None and type(None) in get_args(hint)):
        kind = value.get("kind", "") if len(choices) > 1 else next(iter(choices))
        if kind not in choices:
            raise WorkshopError(f"kind {kind!r}: choose one of {', '.join(choices)}")
        return config_from_dict(choices[kind], value)
    return tuple(value) if isinstance(value, list) else value


def config_to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a config dataclass, for files."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"not a config: {config!r}")
    return asdict(config)
