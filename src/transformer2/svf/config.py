"""Configuration of SVF, in PEFT's form."""

from dataclasses import dataclass, field

from peft import PeftConfig


class PeftTypeName(str):
    """The name of a PEFT method that PEFT's own enum does not have: a string with the `value` of such a member."""

    @property
    def value(self) -> str:
        return str(self)


PEFT_TYPE = PeftTypeName("SVF")
PARAMETRISATIONS = ("linear", "sigmoid_nuclear")


@dataclass
class SVFConfig(PeftConfig):
    """Which matrices SVF scales, and how its vectors are parametrised and start."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Names (or a regex) of the linear modules to adapt, or 'all-linear'. Never the output head."},
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names (or a regex) to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Adapt only these layers."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    parametrisation: str = field(
        default="linear",
        metadata={
            "help": "'linear': the trained vector is z (the paper). 'sigmoid_nuclear': the trained p gives "
            "z = sigmoid(p) sum(s) / sum(s sigmoid(p)), which keeps the nuclear norm of W (the released code)."
        },
    )
    init_mean: float | None = field(
        default=None, metadata={"help": "Mean of the trained vector at the start; None: the value that gives z = 1."}
    )
    init_std: float = field(default=0.0, metadata={"help": "Standard deviation of the trained vector at the start."})
    init_weights: bool = field(
        default=True,
        metadata={
            "help": "False: start far from the base model, with a standard deviation of 1; for tests, as in PEFT."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train and save whole, such as a new classification head."}
    )
    basis_path: str | None = field(
        default=None,
        metadata={"help": "File with the bases (svf.basis.write_basis); None: decompose on the spot. Never saved."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PEFT_TYPE  # type: ignore[assignment]  # not in PEFT's enum, whose members are strings
        if self.parametrisation not in PARAMETRISATIONS:
            raise ValueError(
                f"parametrisation is {self.parametrisation!r}; it must be one of {', '.join(PARAMETRISATIONS)}"
            )
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                "layers_to_transform needs target_modules as a list of names: a pattern, or 'all-linear', says itself "
                "which layers it means"
            )
        if isinstance(self.target_modules, list):
            self.target_modules = sorted(self.target_modules)

    def to_dict(self) -> dict:
        """As saved: without `basis_path`, a place on one machine; names in order."""
        fields = {key: value for key, value in super().to_dict().items() if key != "basis_path"}
        return {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
