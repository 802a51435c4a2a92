"""How many of a run's seeds its methods and its adaptation may have."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer2.config.run import Run


def check_seeds(run: "Run") -> None:
    """Raises ValueError, with the place, where a method or the adaptation asks for seeds that there are not."""
    places = {f"methods.{name}": method.seeds for name, method in run.methods.items()}
    if run.adaptation:
        places["adaptation"] = run.adaptation.seeds
        follow = {"classifier": run.adaptation.classifier}
        follow |= {f"trained.{name}": method for name, method in run.adaptation.trained.items()}
        for name, method in follow.items():
            if method.seeds is not None:
                raise ValueError(f"adaptation.{name}.seeds: is for `methods`; here adaptation.seeds is for all")
    for place, seeds in places.items():
        if seeds is not None and seeds > len(run.seeds):
            raise ValueError(f"{place}.seeds: {seeds} seeds are asked for; the run has {len(run.seeds)}")
    for name in (run.adaptation.experts, *run.adaptation.compared) if run.adaptation else ():
        if name in run.methods and len(run.seeds_of(name)) < len(run.adaptation_seeds):
            raise ValueError(
                f"methods.{name}.seeds: {len(run.seeds_of(name))}, but its experts are adapted with "
                f"{len(run.adaptation_seeds)} seeds; set adaptation.seeds"
            )
    for name in run.methods if run.reference in run.methods else ():
        if run.seeds_of(name) != run.seeds_of(run.reference or ""):
            raise ValueError(f"methods.{name}.seeds: must be as many as those of the reference {run.reference}")
