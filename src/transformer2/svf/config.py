"""Configuration of SVF, in PEFT's form."""

from dataclasses import dataclass, field

from peft import PeftConfig

PEFT_TYPE = "SVF"
PARAMETRISATIONS = ("linear", "sigmoid_nuclear")


@dataclass
class SVFConfig(PeftConfig):
    """Which matrices SVF scales, and how its vectors are parametrised and start."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Names (or a regex) of the linear modules to adapt, or 'all-linear'. Never the output head."},
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names (or a regex) to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Adapt these layers alone."})
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
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Not supported: SVF saves z alone."})
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
        if self.modules_to_save:
            raise ValueError("SVF saves z alone: modules_to_save must be empty")
        if isinstance(self.target_modules, list):
            self.target_modules = sorted(self.target_modules)

    def to_dict(self) -> dict:
        """As saved: without `basis_path`, a place on one machine."""
        return {key: value for key, value in super().to_dict().items() if key != "basis_path"}
